//! `Read` and `Write`, for [`Stream`] and `&Stream`.
//!
//! Invariant: each `write_all` and each `write_fmt` is one call to the shared stream, not several
//! `write`s.

use std::fmt::{self, Write as _};
use std::io::{self, Read, Write};

use super::Stream;
use crate::sync::stream::Take;

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.session.read(&self.stream, buf)?)
    }
}

impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(self.session.write(&self.stream, buf, Take::WhatFits)?)
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        self.session.write(&self.stream, buf, Take::All)?;
        Ok(())
    }

    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        if let Some(text) = text.as_str() {
            return self.write_all(text.as_bytes());
        }
        let mut formatted = String::new();
        match formatted.write_fmt(text) {
            Ok(()) => self.write_all(formatted.as_bytes()),
            Err(fmt::Error) => Err(io::Error::other("a formatting trait returned an error")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.stream.flush()?)
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        (&*self).write_all(buf)
    }

    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        (&*self).write_fmt(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self).flush()
    }
}
