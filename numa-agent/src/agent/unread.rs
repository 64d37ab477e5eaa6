//! Processes whose memory cannot be read, because it is locked: they are looked at again when it can be, and named if that takes long.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Agent;
use crate::{core::task::TaskId, host::procfs};

/// Since when it is worth a word.
const LONG: Duration = Duration::from_secs(30);

/// Those that are known of.
#[derive(Debug, Default)]
pub struct Unread {
    waiting: BTreeSet<TaskId>,
    said: BTreeMap<TaskId, String>,
}

/// What changed since the last look.
#[derive(Debug, PartialEq, Eq, Default)]
struct News {
    /// Some can be read again, or are gone.
    over: bool,
    to_say: Vec<String>,
    to_take_back: Vec<String>,
}

impl Unread {
    /// That process could not be read just now.
    pub(super) fn note(&mut self, process: TaskId) {
        self.waiting.insert(process);
    }

    /// Those that cannot be read now, and those of them that could not for long.
    fn look(&mut self, now: Vec<TaskId>, long: &[TaskId]) -> News {
        let now: BTreeSet<TaskId> = now.into_iter().collect();
        let over = self.waiting.iter().any(|process| !now.contains(process));
        let mut news = News { over, ..News::default() };
        self.said.retain(|process, warning| {
            let stays = now.contains(process);
            if !stays {
                news.to_take_back.push(std::mem::take(warning));
            }
            stays
        });
        for process in long.iter().filter(|process| now.contains(process)) {
            self.said.entry(*process).or_insert_with(|| {
                let warning = procfs::unread_text(process.tid, Some(LONG));
                news.to_say.push(warning.clone());
                warning
            });
        }
        self.waiting = now;
        news
    }
}

impl Agent {
    /// Once a second.
    pub(super) fn note_unread(&mut self) {
        let reader = &self.executor.scanner.reader;
        let (now, long) = (reader.stuck_for(Duration::ZERO), reader.stuck_for(LONG));
        let news = self.executor.unread.look(now, &long);
        self.rescan |= news.over;
        news.to_say.into_iter().for_each(|warning| self.engine.warn(warning));
        news.to_take_back.iter().for_each(|warning| self.engine.take_back(warning));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_stays_unread_is_named_once_and_looked_at_when_it_is_not() {
        let process = |tid| TaskId { tid, start_time: 7 };
        let mut unread = Unread::default();
        unread.note(process(1));
        assert_eq!(unread.look(vec![process(1), process(2)], &[]), News::default());
        let news = unread.look(vec![process(1), process(2)], &[process(2)]);
        assert_eq!((news.over, news.to_say.len(), news.to_take_back.len()), (false, 1, 0));
        assert!(news.to_say[0].contains("process 2") && news.to_say[0].contains("30 s"), "{news:?}");
        assert_eq!(unread.look(vec![process(1), process(2)], &[process(2)]), News::default());
        let over = unread.look(vec![process(1)], &[]);
        assert_eq!((over.over, over.to_say, over.to_take_back), (true, vec![], news.to_say));
        assert!(unread.look(vec![], &[]).over);
        // Read again before anybody has looked.
        unread.note(process(3));
        assert!(unread.look(vec![], &[]).over);
        assert_eq!(unread.look(vec![], &[]), News::default());
    }
}
