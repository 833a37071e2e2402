//! A session's calls for its streams: opens, reads, writes, closes and forgets them.
//!
//! Invariant: a stream is in the registry before its SYN can leave, and until it is closed here and
//! its FIN is handed over.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Instant;

use super::{SessionShared, reader, writer};
use crate::config::INITIAL_WINDOW;
use crate::error::{Error, Result};
use crate::sync::stream::{Name, Notifier, SharedStream, Take};
use crate::wire::MAX_PAYLOAD;

const _: () =
    assert!(INITIAL_WINDOW as usize > MAX_PAYLOAD, "one frame always fits a new stream's window");

impl SessionShared {
    /// Opens a stream from this side. It is in the registry before its SYN can leave, so the peer's
    /// first frame finds it.
    ///
    /// # Errors
    /// Returns `NameTooLong`, the error that ended the session, or the registry's reason why it
    /// opens no further stream.
    pub(crate) fn open(&self, name: &[u8]) -> Result<Arc<SharedStream>> {
        if name.len() > MAX_PAYLOAD {
            return Err(Error::NameTooLong { len: name.len(), max: MAX_PAYLOAD });
        }
        // The registry also refuses streams after the session's end. But it learns of the end only
        // after the transport's `abort`, which may take long. So this function looks at the cause
        // first.
        if let Some(cause) = self.lifecycle.cause() {
            return Err(Error::clone(&cause));
        }
        let config = &self.env.config;
        let now = Instant::now();
        let name = Name::new(name, None);
        let mut registry = self.registry.lock();
        let stream = registry.streams.open(|id| SharedStream::new(id, name, config, true, now))?;
        self.env.allowance.set_streams(registry.streams.len());
        drop(registry);
        self.counters.streams_opened.add(1);
        self.introduce(&stream);
        Ok(stream)
    }

    /// Queues the first frames of a new stream: SYN if this side opened it, and UPD if its window
    /// must be smaller than the initial one.
    pub(super) fn introduce(&self, stream: &Arc<SharedStream>) {
        if self.env.config.version == 2 && self.env.is_crowded() {
            stream.announce();
        }
        stream.queue_now(&self.env);
    }

    /// Writes to a stream. If the write is a reply, and the writer thread is parked, this thread
    /// does an inline write. Returns the number of accepted bytes.
    ///
    /// # Errors
    /// Returns the stream's error. A transport's error in the inline write isn't returned here. It
    /// ends the writing of the session.
    pub(crate) fn write(
        self: &Arc<Self>,
        stream: &Arc<SharedStream>,
        buf: &[u8],
        take: Take,
    ) -> Result<usize> {
        let written = stream.write(&self.env, buf, take)?;
        let shaper = &self.env.shaper;
        let inline = written.is_reply
            && self.bounded_writes
            && written.wakeup.is_due()
            && shaper.is_parked();
        if inline && writer::write_inline(self) {
            self.replies.fetch_add(1, SeqCst);
        } else {
            shaper.unpark(written.wakeup);
        }
        Ok(written.accepted)
    }

    /// Reads from a stream. During a handoff this thread does inline reads instead of waiting.
    /// Returns the number of bytes, 0 at the end.
    ///
    /// # Errors
    /// Returns the stream's error.
    pub(crate) fn read(
        self: &Arc<Self>,
        stream: &Arc<SharedStream>,
        buf: &mut [u8],
    ) -> Result<usize> {
        stream.read(&self.env, buf, || reader::read_inline(self, stream))
    }

    /// Closes a stream for the application. Returns the close notifier, which the caller has to
    /// call.
    pub(crate) fn close_stream(&self, stream: &Arc<SharedStream>) -> Option<Notifier> {
        let mut ended = stream.close(&self.env);
        if ended.closed {
            self.registry.lock().streams.closed(stream.id);
            self.drained.notify_all();
        }
        if ended.can_forget {
            self.forget(stream.id);
        }
        ended.notifier.take().or_else(|| stream.take_notifier())
    }

    /// Removes a closed stream from the registry, after its FIN was handed over.
    pub(super) fn forget(&self, id: u32) {
        let mut registry = self.registry.lock();
        let stream = registry.streams.forget(id);
        let grown = self.env.allowance.set_streams(registry.streams.len());
        drop(registry);
        if let Some(stream) = stream {
            stream.forget(&self.env);
        }
        self.env.wake_allowance_waiters(grown);
        self.drained.notify_all();
    }

    /// Fails one stream. The session goes on.
    pub(super) fn fail_stream(
        &self,
        stream: &Arc<SharedStream>,
        error: Error,
        discard_unread: bool,
    ) {
        let ended = stream.fail(&self.env, error, discard_unread);
        if ended.first {
            self.counters.streams_cut.add(1);
        }
        self.notify_on_pool(vec![(Arc::clone(stream), ended)]);
    }

    /// Returns the number of open streams. A close of the session closes them all, even those that
    /// still have something to send.
    pub(crate) fn num_streams(&self) -> usize {
        if self.lifecycle.is_closing_or_ended() {
            0
        } else {
            self.registry.lock().streams.open_count()
        }
    }
}
