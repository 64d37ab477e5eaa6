//! The kernel's filter on exec: a byte automaton that lets through every text that the rules may match, and few others.
//!
//! A program that runs on each exec of the host cannot run regular expressions, but it can walk a table. The table looks
//! for *required literals*: texts of which at least one is part of whatever a pattern matches. What gets through is
//! judged by [`super::rules`] in user space; what does not never leaves the kernel, so a doubt always lets through.
//!
//! The table sees bytes as the kernel has them. To agree with [`super::task::join_arguments`], which leaves out empty
//! arguments, NUL and space are the same and a run of them counts as one; ASCII letters of either case are the same
//! because a small table is worth more than the few texts that this lets through.

mod literals;

use std::collections::{BTreeSet, VecDeque};

use super::{
    rule::{Rule, RuleRole},
    settings::Settings,
};

/// Bound on the table, which the kernel side has room for: 64 Ki transitions.
pub const MAX_TRANSITIONS: usize = 65_536;
/// Bound on the states.
pub const MAX_STATES: usize = 4096;
/// Set in a transition that completes a literal: the walk can stop, the text may match.
pub const ACCEPT: u32 = 1 << 31;

/// The automaton, as plain numbers for a map of the kernel side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelFilter {
    /// Some pattern requires no literal, or the table would be too large: let everything through.
    pub pass_all: bool,
    /// The class of each byte; bytes that no literal has share class 0.
    pub classes: [u8; 256],
    /// How many classes there are.
    pub class_count: u32,
    /// The first state.
    pub start: u32,
    /// `transitions[state * class_count + class]` is the next state, with [`ACCEPT`] set if a literal is complete.
    pub transitions: Vec<u32>,
}

impl KernelFilter {
    /// The filter for those settings. Explicit pids are no part of it, nor are rules that only ignore.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let patterns = settings.group_patterns.iter().chain(&settings.other_patterns);
        let patterns = patterns.map(|pattern| literals::required(pattern.as_str()));
        let rules = settings.rules.iter().filter(|rule| rule.role != RuleRole::Ignore).map(rule_literals);
        let Some(required) = patterns.chain(rules).collect::<Option<Vec<_>>>() else {
            return Self::pass_all();
        };
        let required: BTreeSet<Vec<u8>> = required.into_iter().flatten().collect();
        // A prefix of a required literal is required too: shorten them until the table fits.
        let fitting = [usize::MAX, 16, 8, 4].into_iter().find_map(|length| {
            Self::of_literals(&required.iter().map(|text| &text[..text.len().min(length)]).collect())
        });
        fitting.unwrap_or_else(Self::pass_all)
    }

    /// Whether a process of that name, with those arguments each ended by NUL, may match: the walk that the kernel does
    /// over `comm`, a space, and the arguments. Arguments that were cut off count as accepted there.
    #[must_use]
    pub fn accepts(&self, comm: &[u8], arguments: &[u8]) -> bool {
        let mut state = self.start;
        self.pass_all
            || comm.iter().chain(b" ").chain(arguments).any(|byte| {
                let class = u32::from(self.classes[usize::from(*byte)]);
                state = self.transitions[(state * self.class_count + class) as usize];
                state & ACCEPT != 0
            })
    }

    fn pass_all() -> Self {
        Self { pass_all: true, classes: [0; 256], class_count: 1, start: 0, transitions: vec![0] }
    }

    /// The automaton of Aho and Corasick for those normalized literals; `None` if it is too large.
    fn of_literals(literals: &BTreeSet<&[u8]>) -> Option<Self> {
        let (classes, class_count) = classes(literals);
        let trie = Trie::new(literals, &classes, class_count)?;
        Some(Self {
            pass_all: false,
            classes,
            class_count: class_count as u32,
            start: 0,
            transitions: trie.complete(),
        })
    }
}

/// A rule needs all its conditions, so those of one will do: the name's or the command line's, whichever tell more.
fn rule_literals(rule: &Rule) -> Option<Vec<Vec<u8>>> {
    let conditions = [&rule.comm, &rule.cmdline].into_iter().flatten();
    literals::best(conditions.filter_map(|condition| literals::required(condition.as_str())))
}

fn classes(literals: &BTreeSet<&[u8]>) -> ([u8; 256], usize) {
    let used: BTreeSet<u8> = literals.iter().flat_map(|text| text.iter().copied()).collect();
    let mut classes = [0; 256];
    // Folding leaves at most 256 - 26 - 1 bytes, so that the numbers fit.
    for byte in 0..=u8::MAX {
        let place = used.iter().position(|other| *other == literals::fold(byte));
        classes[usize::from(byte)] = place.map_or(0, |place| place as u8 + 1);
    }
    (classes, used.len() + 1)
}

/// The literals as a tree of states.
struct Trie {
    class_count: usize,
    space: Option<usize>,
    /// By state and class; 0, the root, where there is no edge.
    edges: Vec<u32>,
    /// By state: whether a literal ends there.
    ends: Vec<bool>,
    /// By state: whether the byte that leads there is a space.
    after_space: Vec<bool>,
}

impl Trie {
    fn new(literals: &BTreeSet<&[u8]>, classes: &[u8; 256], class_count: usize) -> Option<Self> {
        let space = Some(usize::from(classes[usize::from(b' ')])).filter(|class| *class != 0);
        let (ends, after_space) = (vec![false], vec![false]);
        let mut trie = Self { class_count, space, edges: vec![0; class_count], ends, after_space };
        for literal in literals {
            let mut state = 0;
            for byte in *literal {
                state = trie.step(state, usize::from(classes[usize::from(*byte)]));
                if trie.ends.len() > MAX_STATES || trie.edges.len() > MAX_TRANSITIONS {
                    return None;
                }
            }
            trie.ends[state] = true;
        }
        Some(trie)
    }

    /// The state after `class`, made if it is not there.
    fn step(&mut self, state: usize, class: usize) -> usize {
        let edge = state * self.class_count + class;
        if self.edges[edge] == 0 {
            self.edges[edge] = self.ends.len() as u32;
            self.ends.push(false);
            self.after_space.push(self.space == Some(class));
            self.edges.resize(self.edges.len() + self.class_count, 0);
        }
        self.edges[edge] as usize
    }

    /// Fills in where to go on without an edge: where the longest proper suffix that is a prefix of some literal goes. States
    /// are done by depth, so that the suffix's are complete when they are asked.
    fn complete(mut self) -> Vec<u32> {
        let mut suffix = vec![0; self.ends.len()];
        let mut queue = VecDeque::from([0]);
        while let Some(state) = queue.pop_front() {
            self.ends[state] |= self.ends[suffix[state]];
            for class in 0..self.class_count {
                let edge = state * self.class_count + class;
                let fallback =
                    if state == 0 { 0 } else { self.edges[suffix[state] * self.class_count + class] };
                let child = self.edges[edge] as usize;
                if child == 0 {
                    self.edges[edge] = fallback;
                } else {
                    suffix[child] = fallback as usize;
                    queue.push_back(child);
                }
            }
            // A run of spaces counts as one. The literals have no two in a row, so this replaces no edge of theirs.
            if let Some(space) = self.space.filter(|_| self.after_space[state]) {
                self.edges[state * self.class_count + space] = state as u32;
            }
        }
        let mark = |next: &u32| if self.ends[*next as usize] { *next | ACCEPT } else { *next };
        self.edges.iter().map(mark).collect()
    }
}

#[cfg(test)]
mod tests;
