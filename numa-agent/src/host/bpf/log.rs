//! What the programs log while the debug switch is on, into the agent's own log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use aya::Ebpf;
use aya_log::EbpfLogger;

/// Reads the programs' log until dropped.
#[derive(Debug)]
pub(super) struct LogReader(Arc<AtomicBool>);

impl LogReader {
    /// Starts a thread that reads it every 100 ms.
    pub(super) fn start(ebpf: &mut Ebpf) -> Result<Self, String> {
        let mut logger = EbpfLogger::init_with_logger(ebpf, ToTracing).map_err(|error| error.to_string())?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let read = move || {
            while !asked.load(Ordering::Relaxed) {
                logger.flush();
                thread::sleep(Duration::from_millis(100));
            }
        };
        thread::Builder::new().name("bpf-log".to_owned()).spawn(read).map_err(|error| error.to_string())?;
        Ok(Self(stop))
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The programs log numbers only, no text of other processes.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::info!(target: "numa_agent::bpf", "{}", record.args());
    }

    fn flush(&self) {}
}
