//! A page of metrics that a test makes up, served on a port of its own.

use anyhow::Result;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// A request that is not whole by then is answered all the same.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves what `page` says each time that it is asked, for as long as the test runs; says where.
pub fn serve(page: impl Fn() -> String + Send + 'static) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who went away meanwhile asks again.
            let _ = answer(stream, &page());
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream, page: &str) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let _ = stream.read(&mut [0; 1024])?;
    let length = page.len();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all((head + page).as_bytes())?;
    Ok(())
}
