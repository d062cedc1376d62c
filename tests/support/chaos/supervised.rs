//! The aggregator under a supervisor, as users run it: started again when it ends with 75, which asks for that.

use super::server::Server;
use crate::program::Program;
use anyhow::{Result, ensure};

/// Asks to be started again.
const TEMPORARY: i32 = 75;

/// The aggregator and who watches it.
pub struct Supervised {
    server: Server,
    program: Program,
    /// How often it ended and was started again.
    pub restarts: u64,
}

impl Supervised {
    /// Starts it and waits until it is ready.
    pub fn start(mut server: Server) -> Result<Self> {
        let program = server.start()?.0;
        Ok(Self { server, program, restarts: 0 })
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        self.server.endpoint()
    }

    /// Starts it again if it has ended with 75.
    ///
    /// # Errors
    /// Any other end.
    pub fn look(&mut self) -> Result<()> {
        if self.program.has_ended() {
            let status = self.program.wait()?;
            ensure!(status.code() == Some(TEMPORARY), "it ended with {status}: {}", self.program.said());
            self.program = self.server.spawn()?;
            self.restarts += 1;
        }
        Ok(())
    }

    /// What the running process has said.
    pub fn said(&self) -> String {
        self.program.said()
    }
}
