//! Uses a program's own standard input and output as a transport.
//!
//! The program's other code loses access to both, for three reasons:
//! - A line that other code prints would be taken for a frame. Such lines go to standard error from
//!   here on.
//! - The peer reads an end of file when the last descriptor of the output is closed. A copy of the
//!   descriptor that stays open, in this process or in a child process, would keep the peer
//!   waiting.
//! - `std::io::stdout()` is line-buffered. It keeps the bytes after the last line end, and it
//!   searches all data for line ends. A `File` writes all bytes at once.

#[cfg(unix)]
pub use unix::take;

#[cfg(unix)]
mod unix {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsFd;

    use gmux::transport::Pair;

    /// Takes over standard input and output. Nothing can interrupt the read half. So the session's
    /// reader thread may stay until the peer goes away or this process exits.
    pub fn take() -> io::Result<Pair<File, File>> {
        let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        rustix::stdio::dup2_stdout(io::stderr())?;
        Ok(Pair::new(input, output))
    }
}

/// Returns standard input and output. On this system they can't be taken over, so the program has
/// to ensure that nothing else uses them.
#[cfg(not(unix))]
pub fn take() -> std::io::Result<(std::io::Stdin, std::io::Stdout)> {
    Ok((std::io::stdin(), std::io::stdout()))
}
