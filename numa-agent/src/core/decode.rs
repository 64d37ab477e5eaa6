//! From the bytes of a ring buffer record to an event: a function of bytes, which checks length and kind.

use numa_ebpf::{
    account::{NO_SLOT, Occupant},
    brief::Brief,
    hold,
    mark::TICK_NS,
    place::NO_PLAN,
    record::{
        ARGS_MAX, BriefExit, COMM_LEN, EXEC_FIXED, Exit, Fork, Header, Migrate, Rename, SetAffinity,
        UseDevice, flag, kind,
    },
    tap,
};

use super::{
    event::{EventKind, TaskEvent},
    hold::Hold,
    jitter::tap::Send,
    task::{TaskId, join_arguments},
};

/// A record that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A kind this version does not know.
    #[error("record of unknown kind {kind} ({len} bytes); the programs and the agent do not fit together")]
    UnknownKind {
        /// The kind.
        kind: u32,
        /// Length of the record.
        len: usize,
    },
    /// The length does not fit the kind.
    #[error("record of kind {kind} has {len} bytes instead of {expected}")]
    Length {
        /// The kind; 0 if the record is too short to have one.
        kind: u32,
        /// Length of the record.
        len: usize,
        /// Length it should have.
        expected: usize,
    },
}

/// A start time as `/proc/TID/stat` gives it, rounded down as `nsec_to_clock_t` does (`fs/proc/array.c`).
#[must_use]
pub fn start_ticks(start_boottime_ns: u64) -> u64 {
    start_boottime_ns / TICK_NS
}

/// Decodes one record.
///
/// # Errors
/// [`DecodeError`] says what does not fit.
pub fn decode(record: &[u8]) -> Result<TaskEvent, DecodeError> {
    let len = record.len();
    if len < size_of::<Header>() {
        return Err(DecodeError::Length { kind: 0, len, expected: size_of::<Header>() });
    }
    let mut bytes = Bytes(record);
    let (kind, flags, at_ns) = (bytes.u32(), bytes.u32(), bytes.u64());
    let (pid, tid, start) = (bytes.u32(), bytes.u32(), bytes.u64());
    let expected = match kind {
        kind::FORK => size_of::<Fork>(),
        kind::EXEC => exec_len(record),
        kind::RENAME => size_of::<Rename>(),
        kind::EXIT if flags & flag::BRIEF != 0 => size_of::<BriefExit>(),
        kind::EXIT => size_of::<Exit>(),
        kind::SET_AFFINITY => size_of::<SetAffinity>(),
        kind::MIGRATE => size_of::<Migrate>(),
        kind::USE_DEVICE => size_of::<UseDevice>(),
        _ => return Err(DecodeError::UnknownKind { kind, len }),
    };
    if len != expected {
        return Err(DecodeError::Length { kind, len, expected });
    }
    let kind = match kind {
        kind::FORK => {
            let (parent_pid, parent_tid) = (bytes.u32(), bytes.u32());
            let slot = Some(bytes.u32()).filter(|slot| *slot != NO_SLOT);
            let plan = Some(bytes.u32()).filter(|plan| *plan != NO_PLAN);
            EventKind::Fork { parent_pid, parent_tid, comm: bytes.comm(), slot, plan }
        }
        kind::EXEC => {
            let (ppid, uid, comm) = (bytes.u32(), bytes.u32(), bytes.comm());
            let cmdline = join_arguments(&record[EXEC_FIXED..]).into();
            EventKind::Exec {
                ppid,
                uid,
                comm,
                cmdline,
                truncated: flags & flag::TRUNCATED != 0,
                held: flags & flag::HELD != 0,
            }
        }
        kind::RENAME => EventKind::Rename { comm: bytes.comm() },
        kind::EXIT => {
            let (slot, _reserved) = (bytes.u32(), bytes.u32());
            let brief = (flags & flag::BRIEF != 0).then(|| bytes.brief());
            EventKind::Exit { slot: Some(slot).filter(|slot| *slot != NO_SLOT), brief }
        }
        kind::SET_AFFINITY => EventKind::SetAffinity {
            caller_pid: bytes.u32(),
            caller_tid: bytes.u32(),
            caller_comm: bytes.comm(),
        },
        kind::USE_DEVICE => {
            let (device, _reserved) = (bytes.u32(), bytes.u32());
            EventKind::UseDevice { device, comm: bytes.comm() }
        }
        _ => EventKind::Migrate { from_cpu: bytes.u32(), to_cpu: bytes.u32() },
    };
    Ok(TaskEvent { at_ns, pid, task: TaskId { tid, start_time: start_ticks(start) }, kind })
}

/// Decodes a record of the tap's ring.
///
/// # Errors
/// [`DecodeError::Length`].
pub fn decode_send(record: &[u8]) -> Result<Send, DecodeError> {
    let (len, expected) = (record.len(), size_of::<tap::Send>());
    if len != expected {
        return Err(DecodeError::Length { kind: 0, len, expected });
    }
    let mut bytes = Bytes(record);
    let (at_ns, socket, pid) = (bytes.u64(), bytes.u64(), bytes.u32());
    let (flags, sent) = (bytes.u32(), bytes.u32());
    let (local_port, remote_port, comm) = (bytes.u16(), bytes.u16(), bytes.comm());
    let first = flags & tap::flag::FIRST != 0;
    Ok(Send { at_ns, socket, pid, comm, local_port, remote_port, bytes: sent, first })
}

/// Decodes a record of the ring of held tasks.
///
/// # Errors
/// [`DecodeError::Length`].
pub fn decode_hold(record: &[u8]) -> Result<Hold, DecodeError> {
    let (len, expected) = (record.len(), size_of::<hold::Hold>());
    if len != expected {
        return Err(DecodeError::Length { kind: 0, len, expected });
    }
    let mut bytes = Bytes(record);
    let (start, at_ns, tid) = (bytes.u64(), bytes.u64(), bytes.u32());
    Ok(Hold { task: TaskId { tid, start_time: start_ticks(start) }, at_ns })
}

/// Length that an exec record claims: it says how many bytes of arguments it has.
fn exec_len(record: &[u8]) -> usize {
    let at = std::mem::offset_of!(numa_ebpf::record::Exec, args_len);
    let args_len = record.get(at..).map_or(0, |rest| Bytes(rest).u32() as usize);
    EXEC_FIXED + args_len.min(ARGS_MAX)
}

/// Takes fields off the front, in native byte order; a missing one is zero (lengths are checked beforehand).
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }

    fn u16(&mut self) -> u16 {
        u16::from_ne_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_ne_bytes(self.take())
    }

    fn brief(&mut self) -> Brief {
        Brief {
            opened_at_ns: self.u64(),
            cpu: self.u32(),
            node: self.u32(),
            counts: std::array::from_fn(|_| self.u32()),
            durations_ns: std::array::from_fn(|_| [self.u32(), self.u32()]),
            preemptor: Occupant { comm: self.take(), ns: self.u64(), count: self.u64() },
            rest_ns: self.u64(),
            rest_count: self.u64(),
        }
    }

    /// Up to the first NUL.
    fn comm(&mut self) -> String {
        let comm = self.take::<COMM_LEN>();
        let len = comm.iter().position(|byte| *byte == 0).unwrap_or(COMM_LEN);
        String::from_utf8_lossy(&comm[..len]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(kind: u32, flags: u32, body: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(77u64.to_ne_bytes());
        bytes.extend(10u32.to_ne_bytes());
        bytes.extend(11u32.to_ne_bytes());
        bytes.extend((5 * TICK_NS + TICK_NS - 1).to_ne_bytes());
        body.iter().for_each(|part| bytes.extend(*part));
        bytes
    }

    fn comm(text: &str) -> [u8; COMM_LEN] {
        let mut comm = [0; COMM_LEN];
        comm[..text.len()].copy_from_slice(text.as_bytes());
        comm
    }

    fn exec(args: &[u8], flags: u32) -> Vec<u8> {
        let length = (args.len() as u32).to_ne_bytes();
        let body: [&[u8]; 6] =
            [&1u32.to_ne_bytes(), &1000u32.to_ne_bytes(), &comm("python3"), &length, &[0; 4], args];
        record(kind::EXEC, flags, &body)
    }

    #[test]
    fn every_kind_decodes_to_its_fields() {
        let event = |kind| TaskEvent { at_ns: 77, pid: 10, task: TaskId { tid: 11, start_time: 5 }, kind };
        for (seat, slot, plan) in [([3u32, 4], Some(3), Some(4)), ([NO_SLOT, NO_PLAN], None, None)] {
            let ids = [8, 9, seat[0], seat[1]].map(u32::to_ne_bytes).concat();
            let fork = record(kind::FORK, 0, &[&ids, &comm("worker")]);
            let comm = "worker".into();
            let expected = EventKind::Fork { parent_pid: 8, parent_tid: 9, comm, slot, plan };
            assert_eq!(decode(&fork), Ok(event(expected)));
        }
        let facts = |cmdline: &str, truncated, held| EventKind::Exec {
            ppid: 1,
            uid: 1000,
            comm: "python3".into(),
            cmdline: cmdline.into(),
            truncated,
            held,
        };
        assert_eq!(
            decode(&exec(b"python3\0-m\0\0serve\0", 0)),
            Ok(event(facts("python3 -m serve", false, false)))
        );
        let cut = Ok(event(facts("python3 -m", true, false)));
        assert_eq!(decode(&exec(b"python3\0-m", flag::TRUNCATED)), cut);
        assert_eq!(decode(&exec(b"python3\0", flag::HELD)), Ok(event(facts("python3", false, true))));
        let rename = record(kind::RENAME, 0, &[b"exactly15bytes!\0"]);
        assert_eq!(decode(&rename), Ok(event(EventKind::Rename { comm: "exactly15bytes!".into() })));
        for (slot, expected) in [(3u32, Some(3)), (NO_SLOT, None)] {
            let exit = record(kind::EXIT, 0, &[&slot.to_ne_bytes(), &[0; 4]]);
            assert_eq!(decode(&exit), Ok(event(EventKind::Exit { slot: expected, brief: None })));
        }
        let brief = Brief {
            opened_at_ns: 70,
            cpu: 1,
            node: 2,
            counts: [3, 4, 5, 6],
            durations_ns: [[7, 8], [9, 10], [11, 12], [13, 14]],
            preemptor: Occupant { comm: comm("other"), ns: 15, count: 16 },
            rest_ns: 17,
            rest_count: 18,
        };
        let words: Vec<u8> = (1u32..=14).flat_map(u32::to_ne_bytes).collect();
        let longs: Vec<u8> = (15u64..=18).flat_map(u64::to_ne_bytes).collect();
        let slot = [3u32, 0].map(u32::to_ne_bytes).concat();
        let body: [&[u8]; 6] = [&slot, &70u64.to_ne_bytes(), &words, &comm("other"), &longs, &[]];
        let exit = record(kind::EXIT, flag::BRIEF, &body);
        assert_eq!(decode(&exit), Ok(event(EventKind::Exit { slot: Some(3), brief: Some(brief) })));
        let call =
            record(kind::SET_AFFINITY, 0, &[&8u32.to_ne_bytes(), &9u32.to_ne_bytes(), &comm("taskset")]);
        let caller = EventKind::SetAffinity { caller_pid: 8, caller_tid: 9, caller_comm: "taskset".into() };
        assert_eq!(decode(&call), Ok(event(caller)));
        let used = [&0x0ec0_0007u32.to_ne_bytes()[..], &[0; 4], &comm("python3")];
        let used = decode(&record(kind::USE_DEVICE, 0, &used));
        assert_eq!(used, Ok(event(EventKind::UseDevice { device: 0x0ec0_0007, comm: "python3".into() })));
        let migrate = record(kind::MIGRATE, 0, &[&0u32.to_ne_bytes(), &40u32.to_ne_bytes()]);
        assert_eq!(decode(&migrate), Ok(event(EventKind::Migrate { from_cpu: 0, to_cpu: 40 })));
    }

    #[test]
    fn lengths_and_unknown_kinds_are_errors() {
        assert_eq!(decode(&[0; 31]), Err(DecodeError::Length { kind: 0, len: 31, expected: 32 }));
        assert_eq!(decode(&record(99, 0, &[])), Err(DecodeError::UnknownKind { kind: 99, len: 32 }));
        let mut cut = exec(b"python3\0", 0);
        cut.pop();
        assert_eq!(decode(&cut), Err(DecodeError::Length { kind: kind::EXEC, len: 71, expected: 72 }));
        let mut liar = exec(b"", 0);
        let at = std::mem::offset_of!(numa_ebpf::record::Exec, args_len);
        liar[at..at + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(matches!(decode(&liar), Err(DecodeError::Length { kind: kind::EXEC, .. })));
    }

    #[test]
    fn a_send_decodes_to_its_fields() {
        let send = |flags: u32| {
            let mut bytes = Vec::new();
            [77u64, 0xffff_8881_0000_1234].iter().for_each(|field| bytes.extend(field.to_ne_bytes()));
            [10u32, flags, 300].iter().for_each(|field| bytes.extend(field.to_ne_bytes()));
            [8000u16, 54_321].iter().for_each(|field| bytes.extend(field.to_ne_bytes()));
            bytes.extend(comm("uvicorn"));
            bytes
        };
        let expected = Send {
            at_ns: 77,
            socket: 0xffff_8881_0000_1234,
            pid: 10,
            comm: "uvicorn".into(),
            local_port: 8000,
            remote_port: 54_321,
            bytes: 300,
            first: true,
        };
        assert_eq!(decode_send(&send(tap::flag::FIRST)), Ok(expected.clone()));
        assert_eq!(decode_send(&send(!tap::flag::FIRST)), Ok(Send { first: false, ..expected }));
        let cut = decode_send(&send(0)[1..]);
        assert_eq!(cut, Err(DecodeError::Length { kind: 0, len: 47, expected: 48 }));
    }

    #[test]
    fn a_hold_decodes_to_its_fields() {
        let words = [5 * TICK_NS + 1, 77, 11].map(u64::to_ne_bytes).concat();
        let task = TaskId { tid: 11, start_time: 5 };
        assert_eq!(decode_hold(&words), Ok(Hold { task, at_ns: 77 }));
        let cut = decode_hold(&words[1..]);
        assert_eq!(cut, Err(DecodeError::Length { kind: 0, len: 23, expected: 24 }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in 0u32..9, body in proptest::collection::vec(any::<u8>(), 0..1100)) {
            let _ = decode(&body);
            let _ = decode(&record(kind, 0, &[&body]));
        }

        #[test]
        fn any_arguments_survive(args in proptest::collection::vec(any::<u8>(), 0..=ARGS_MAX)) {
            let event = decode(&exec(&args, 0)).expect("a good record");
            let expected = join_arguments(&args);
            let EventKind::Exec { cmdline, .. } = event.kind else { panic!("not an exec: {event:?}") };
            prop_assert_eq!(&*cmdline, expected.as_str());
        }
    }
}
