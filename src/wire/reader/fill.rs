//! One read of the transport. The read puts the bytes directly where they belong: into the read
//! buffer, into a payload's buffer, or into the buffers of the next frames.
//!
//! Invariant: a read into the read buffer never moves a payload that the caller has already
//! received.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Read};

use super::{
    AHEAD, FrameReader, LOOKAHEAD, PayloadBuffer, READ_BUFFER, READ_BUFFER_KEPT, RUN,
    SMALL_PAYLOAD_MAX, State,
};
use crate::pool::{Buffer, BufferPool};
use crate::wire::header::{HEADER_LEN, Header};

impl FrameReader {
    /// Does one read from the transport and returns its byte count. 0 means the end of the input.
    pub(crate) fn fill(
        &mut self,
        input: &mut (impl Read + ?Sized),
        pool: &BufferPool,
    ) -> io::Result<usize> {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            self.read_buffer.truncate(READ_BUFFER);
            if self.read_buffer.capacity() > READ_BUFFER_KEPT {
                self.read_buffer.shrink_to(READ_BUFFER);
            }
        } else if self.read_buffer.len() - self.start < HEADER_LEN + SMALL_PAYLOAD_MAX {
            self.read_buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if let State::Collect { header, payload } = &mut self.state {
            return match self.run.1.saturating_sub(RUN - 1) {
                0 => Self::fill_payload(
                    input,
                    *header,
                    payload,
                    &mut self.read_buffer,
                    &mut self.end,
                ),
                run => {
                    while self.spare.len()
                        < run.min(AHEAD).min(self.ahead_bytes / self.run.0.max(1))
                    {
                        self.spare.push(pool.frame(self.run.0));
                    }
                    Self::fill_run(input, *header, payload, &mut self.spare, &mut self.ahead)
                }
            };
        }
        self.spare.clear(); // the read may wait long, so hold no empty buffers
        // In a run, read only the header. Then the payload can be read directly into its buffer.
        let in_run =
            self.run.1 >= RUN && self.start == self.end && matches!(self.state, State::Header);
        let until = if in_run { HEADER_LEN } else { self.read_buffer.len() };
        let n = input.read(&mut self.read_buffer[self.end..until])?;
        self.end = (self.end + n).min(self.read_buffer.len());
        Ok(n)
    }

    /// Reads the rest of a payload. Also reads up to [`LOOKAHEAD`] bytes behind it into the read
    /// buffer. The read buffer is empty when this is called.
    fn fill_payload(
        input: &mut (impl Read + ?Sized),
        header: Header,
        payload: &mut PayloadBuffer,
        read_buffer: &mut [u8],
        end: &mut usize,
    ) -> io::Result<usize> {
        let rest = &mut payload.buffer
            [payload.start + payload.filled..payload.start + usize::from(header.length)];
        let wanted = rest.len();
        let n = input.read_vectored(&mut [
            IoSliceMut::new(rest),
            IoSliceMut::new(&mut read_buffer[..LOOKAHEAD]),
        ])?;
        payload.filled += n.min(wanted);
        *end = n.saturating_sub(wanted).min(LOOKAHEAD);
        Ok(n)
    }

    /// Reads the rest of a payload. Also reads whole frames behind it into spare buffers.
    fn fill_run(
        input: &mut (impl Read + ?Sized),
        header: Header,
        payload: &mut PayloadBuffer,
        spare: &mut Vec<Buffer>,
        ahead: &mut VecDeque<(Buffer, usize)>,
    ) -> io::Result<usize> {
        let rest = &mut payload.buffer
            [payload.start + payload.filled..payload.start + usize::from(header.length)];
        let wanted = rest.len();
        let mut slices = [const { None }; AHEAD + 1];
        slices[0] = Some(IoSliceMut::new(rest));
        // The last spare buffer is filled first, because it is popped first.
        for (slice, buffer) in slices[1..].iter_mut().zip(spare.iter_mut().rev()) {
            *slice = Some(IoSliceMut::new(buffer));
        }
        let count = slices.iter().flatten().count();
        let mut slices = slices.map(|slice| slice.unwrap_or_else(|| IoSliceMut::new(&mut [])));
        let n = input.read_vectored(&mut slices[..count])?;
        payload.filled += n.min(wanted);
        let mut left = n.saturating_sub(wanted);
        while left > 0
            && let Some(buffer) = spare.pop()
        {
            let filled = left.min(buffer.len());
            left -= filled;
            ahead.push_back((buffer, filled));
        }
        Ok(n)
    }
}
