//! Who is connected, and who gives way when there are too many: who has not asked for anything yet, then who does not take the answer.
//! Nobody whose answer is in the making does.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::Instant,
};

/// Connections at a time.
const MOST: usize = 32;
/// How long an answer may take to be taken before its connection may have to give way.
const TAKING: Duration = Duration::from_secs(1);

/// How far a connection has got.
#[derive(Debug, Clone, Default)]
pub(super) struct Phase(Rc<Cell<Step>>);

#[derive(Debug, Clone, Copy, Default)]
enum Step {
    /// Its request is not there yet.
    #[default]
    Idle,
    /// Its answer is being made.
    Asked,
    /// Its answer has been ready since then, and is not all taken.
    Answered(Instant),
}

impl Phase {
    /// The request is there.
    pub(super) fn asked(&self) {
        self.0.set(Step::Asked);
    }

    /// The answer is there.
    pub(super) fn answered(&self) {
        self.0.set(Step::Answered(Instant::now()));
    }
}

/// All connections, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    tasks: JoinSet<()>,
    present: Vec<(Phase, AbortHandle)>,
}

impl Crowd {
    /// Whether another one can be admitted.
    pub(super) fn has_room(&self) -> bool {
        self.present.len() < MOST || self.dispensable().is_some()
    }

    /// Lets one in, `converse`, for whom another may have to go.
    pub(super) fn admit<F: Future<Output = ()> + 'static>(&mut self, converse: impl FnOnce(Phase) -> F) {
        if self.present.len() >= MOST
            && let Some(index) = self.dispensable()
        {
            self.present.remove(index).1.abort();
        }
        let phase = Phase::default();
        let task = self.tasks.spawn_local(converse(phase.clone()));
        self.present.push((phase, task));
    }

    /// Somebody has gone; never, if nobody is there.
    pub(super) async fn departure(&mut self) {
        match self.tasks.join_next().await {
            Some(_) => self.present.retain(|(_, task)| !task.is_finished()),
            None => std::future::pending().await,
        }
    }

    /// The one that has to go first.
    fn dispensable(&self) -> Option<usize> {
        let first = |dispensable: fn(Step) -> bool| {
            self.present.iter().position(|(phase, _)| dispensable(phase.0.get()))
        };
        first(|step| matches!(step, Step::Idle))
            .or_else(|| first(|step| matches!(step, Step::Answered(since) if since.elapsed() >= TAKING)))
    }
}
