//! `joulebook`: arguments in, exit code out.

use std::process::ExitCode;

/// Exit code after Ctrl-C.
const INTERRUPTED: u8 = 130;
/// Exit code when not even a runtime can be had.
const UNAVAILABLE: u8 = 69;

fn main() -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::from(UNAVAILABLE);
    };
    let (mut stdout, mut stderr) = (std::io::stdout(), std::io::stderr());
    let code = runtime.block_on(async {
        tokio::select! {
            code = joulebook::run(std::env::args_os().collect(), &mut stdout, &mut stderr) => code,
            Ok(()) = tokio::signal::ctrl_c() => INTERRUPTED,
        }
    });
    // Name resolution may still hold a blocking thread: it is not waited for.
    runtime.shutdown_background();
    ExitCode::from(code)
}
