//! A program's own standard input and output as a transport.
//!
//! They are taken over, for three reasons:
//! - A line that anything else in the process prints would be taken for a frame. It goes to
//!   standard error from here on.
//! - The end of the session's output is the drop of its last descriptor. A copy that stays in the
//!   process, or in one that it starts, would keep the other end waiting.
//! - `std::io::stdout()` keeps back what follows the last line's end, and looks for line ends in
//!   all that is written. A `File` writes what it is given.

#[cfg(unix)]
pub use unix::take;

#[cfg(unix)]
mod unix {
    use std::fs::File;
    use std::io;
    use std::os::fd::AsFd;

    use gmux::transport::Pair;

    /// Takes them over. Nothing can interrupt the read half, so the session's reader thread may
    /// stay until the other end goes, or this process ends.
    pub fn take() -> io::Result<Pair<File, File>> {
        let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        rustix::stdio::dup2_stdout(io::stderr())?;
        Ok(Pair::new(input, output))
    }
}

/// Elsewhere the program has to see to it that nothing else uses them.
#[cfg(not(unix))]
pub fn take() -> std::io::Result<(std::io::Stdin, std::io::Stdout)> {
    Ok((std::io::stdin(), std::io::stdout()))
}
