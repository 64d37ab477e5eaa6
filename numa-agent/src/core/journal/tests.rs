use proptest::prelude::*;

use super::*;

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

fn task(tid: u32, before: &str, given: &str) -> Entry {
    let id = TaskId { tid, start_time: 7 };
    Entry::Task(TaskChange {
        pid: 1,
        task: id,
        comm: "worker".into(),
        before: set(before),
        given: set(given),
    })
}

fn irq(path: &str, before: &str, given: &str) -> Entry {
    let text = str::to_owned;
    Entry::File(FileChange {
        class: FileClass::Irq,
        path: path.into(),
        what: "irq 34 eth0-rx-0".into(),
        before: text(before),
        given: text(given),
        whose: None,
    })
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let mask =
        || prop::collection::btree_set(0u32..12, 0..6).prop_map(|ids| ids.into_iter().collect::<CpuSet>());
    let id = || (1u32..6, 1u64..3).prop_map(|(tid, start_time)| TaskId { tid, start_time });
    let path = || prop::sample::select(vec!["/proc/irq/1/smp_affinity_list", "/sys/fs/cgroup/a/cpuset.mems"]);
    let class = prop::sample::select(vec![FileClass::Irq, FileClass::Cpuset]);
    let whose = prop::option::of(prop::sample::select(vec!["inode 7".to_owned(), "inode 8".to_owned()]));
    prop_oneof![
        (id(), any::<String>(), mask(), mask()).prop_map(|(task, comm, before, given)| {
            Entry::Task(TaskChange { pid: task.tid, task, comm, before, given })
        }),
        (class, path(), any::<String>(), any::<String>(), any::<String>(), whose).prop_map(
            |(class, path, what, before, given, whose)| {
                Entry::File(FileChange { class, path: path.into(), what, before, given, whose })
            }
        ),
        id().prop_map(|task| Entry::Struck { subject: Subject::Task(task) }),
        path().prop_map(|path| Entry::Struck { subject: Subject::File(path.into()) }),
        (0u32..2).prop_map(|number| Entry::Boot { id: format!("boot-{number}") }),
        (1usize..9).prop_map(|lines| Entry::Lost { lines }),
        (0u32..9).prop_map(|number| Entry::Unknown(format!(r#"{{"kind":"later","number":{number}}}"#))),
    ]
}

fn print(entries: &[Entry]) -> String {
    entries.iter().map(Entry::encode).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Wherever a crash cuts it.
    #[test]
    fn any_prefix_of_a_journal_is_a_prefix_of_its_entries(entries in prop::collection::vec(any_entry(), 0..12)) {
        let text = print(&entries);
        for end in 0..=text.len() {
            let prefix = decode(&text.as_bytes()[..end]);
            let whole = text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count();
            prop_assert_eq!(&prefix.entries[..], &entries[..whole]);
            prop_assert_eq!(prefix.damaged, usize::from(end > 0 && text.as_bytes()[end - 1] != b'\n'));
        }
    }

    #[test]
    fn a_damaged_byte_costs_no_more_than_its_lines(
        entries in prop::collection::vec(any_entry(), 1..12), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = print(&entries).into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let decoded = decode(&bytes);
        // An end of a line that is gone joins two.
        prop_assert!(decoded.entries.len() + 2 >= entries.len());
        prop_assert!(decoded.damaged > 0);
        prop_assert!(decoded.entries.iter().all(|entry| entries.contains(entry)));
    }

    #[test]
    fn any_bytes_are_read_and_a_few_are_no_entry(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).entries.len() <= bytes.len() / 10);
    }

    /// Also when it is done in the middle of the journal.
    #[test]
    fn a_rewritten_journal_adds_up_to_the_same(
        entries in prop::collection::vec(any_entry(), 0..30), cut in any::<prop::sample::Index>(),
    ) {
        let whole: Outstanding = entries.iter().cloned().collect();
        let (early, late) = entries.split_at(cut.index(entries.len() + 1));
        let early = early.iter().cloned().collect::<Outstanding>().encode();
        let decoded = decode((early + &print(late)).as_bytes());
        prop_assert_eq!(decoded.damaged, 0);
        prop_assert_eq!(decoded.entries.into_iter().collect::<Outstanding>(), whole);
    }
}

#[test]
fn a_line_looks_like_this() {
    let line = task(5, "0-7", "2").encode();
    let body = r#"{"kind":"task","pid":1,"tid":5,"start_time":7,"comm":"worker","before":"0-7","given":"2"}"#;
    assert_eq!(line, format!("{:08x} {body}\n", crc32fast::hash(body.as_bytes())));
    assert!(irq("/proc/irq/34/smp_affinity_list", "0-7", "2").encode().contains(r#""class":"irq""#));
}

#[test]
fn what_a_later_version_writes_survives() {
    let body = r#"{"kind":"task","pid":1,"tid":5,"otherwise":true}"#;
    let line = format!("{:08x} {body}\n", crc32fast::hash(body.as_bytes()));
    let decoded = decode(line.as_bytes());
    assert_eq!(decoded, Decoded { entries: vec![Entry::Unknown(body.into())], damaged: 0 });
    assert_eq!(decoded.entries.into_iter().collect::<Outstanding>().encode(), line);
}

#[test]
fn what_it_had_and_the_last_gift_count() {
    let path = "/proc/irq/34/smp_affinity_list";
    let mut outstanding: Outstanding = [
        task(5, "0-7", "2-3"),
        task(6, "0-7", "2-3"),
        irq(path, "0-7", "1"),
        task(5, "2-3", "4"),
        irq(path, "1", "2"),
    ]
    .into_iter()
    .collect();
    let five = TaskId { tid: 5, start_time: 7 };
    let owed = &outstanding.tasks[&five];
    assert_eq!((&owed.change.before, &owed.change.given), (&set("0-7"), &set("4")));
    assert_eq!(owed.earlier, [set("2-3")]);
    let file = &outstanding.files[path];
    assert_eq!((file.change.before.as_str(), file.change.given.as_str()), ("0-7", "2"));
    // Somebody else sets it, and we do it again: twice, once with a value that has been ours before.
    let since = [task(5, "6", "4"), irq(path, "6", "2"), irq(path, "1", "2")];
    since.into_iter().for_each(|entry| outstanding.add(entry));
    assert_eq!(outstanding.tasks[&five].change.before, set("0-7"), "a mask: what it had first");
    assert_eq!(outstanding.files[path].change.before, "6");
    outstanding.add(Entry::Struck { subject: Subject::Task(five) });
    outstanding.add(Entry::Struck { subject: Subject::File(path.into()) });
    assert_eq!(outstanding.tasks.len(), 1);
    // Undone, and changed again.
    outstanding.add(task(5, "1", "4"));
    assert_eq!(outstanding.tasks[&five].change.before, set("1"));
    outstanding.forget(&outstanding.subjects().collect());
    assert!(outstanding.is_empty());
}

#[test]
fn what_was_changed_before_a_boot_is_over() {
    let boot = |id: &str| Entry::Boot { id: id.into() };
    let told = [task(5, "0-7", "2"), boot("a"), irq("/x", "0", "1")];
    let mut outstanding: Outstanding = told.into_iter().collect();
    assert_eq!(
        (outstanding.tasks.len(), outstanding.files.len()),
        (1, 1),
        "an older version told of no boot"
    );
    assert_eq!(outstanding.enter_boot("a"), 0);
    assert_eq!(outstanding.enter_boot("b"), 2);
    assert!(outstanding.is_empty());
    outstanding.add(task(5, "0-3", "2"));
    outstanding.add(boot("b"));
    assert_eq!(outstanding.tasks.len(), 1);
    outstanding.add(boot("c"));
    assert!(outstanding.is_empty());
}

#[test]
fn values_are_the_same_however_they_are_printed() {
    for (one, other) in
        [("0-1\n", "0,1"), ("3", "00000000,00000003"), ("", "\n"), ("max", "max"), ("1e", "01e")]
    {
        assert!(same_value(one, other), "{one:?} {other:?}");
    }
    for (one, other) in [
        ("0-1", "0-2"),
        ("ff", "7f"),
        ("", "0"),
        ("max", "min"),
        ("00000000,00000001", "00000001,00000000"),
        ("0,4", "4"),
    ] {
        assert!(!same_value(one, other), "{one:?} {other:?}");
    }
}

#[test]
fn a_checksum_that_reads_as_the_same_number_is_damaged_all_the_same() {
    let line =
        (1..99).map(|tid| task(tid, "0-7", "2").encode()).find(|line| line[..8] != line[..8].to_uppercase());
    let line = line.unwrap();
    let upper = line[..8].to_uppercase() + &line[8..];
    assert_eq!((decode(line.as_bytes()).damaged, decode(upper.as_bytes()).damaged), (0, 1));
}

#[test]
fn what_has_taken_the_place_of_another_gets_back_its_own_value() {
    let path = "/sys/fs/cgroup/cpuset/a/cpuset.mems";
    let mems = |before: &str, given: &str, whose: Option<&str>| {
        let Entry::File(change) = irq(path, before, given) else { panic!() };
        FileChange { class: FileClass::Cpuset, whose: whose.map(str::to_owned), ..change }
    };
    let add = |told: &[&FileChange]| -> Outstanding {
        told.iter().map(|change| Entry::File((*change).clone())).collect()
    };
    let (first, second) = (mems("0-7", "0-1", Some("inode 5")), mems("0-1", "0", Some("inode 6")));
    let outstanding = add(&[&first, &second]);
    let owed = &outstanding.files[path];
    assert_eq!((owed.change.before.as_str(), owed.gifts().count()), ("0-1", 1));
    assert_eq!(undo::traced(&add(&[&first]), &second, &set("0-7")).before, "0-1");
    assert_eq!(read_back(&outstanding.encode()), outstanding);
    // Of an older version's line nobody can tell.
    let old = mems("0-7", "0-1", None);
    assert!(!Entry::File(old.clone()).encode().contains("whose"));
    assert_eq!(add(&[&old, &second]).files[path].change.before, "0-7");

    // An interrupt is another's once none of its handlers is there; of one without any nobody can tell.
    let shared = |now: Option<&str>| mems("0", "1", Some("eth0-rx-0,usb1")).is_anothers(now);
    assert!(shared(Some("nvme0q1")) && !shared(Some("ahci,usb1")) && !shared(None));
}

#[test]
fn of_many_gifts_the_oldest_are_forgotten() {
    let mut outstanding = Outstanding::default();
    // Shrinking, as those of a plan that makes room for more groups.
    let last: Vec<String> = (0..20).rev().map(|end| format!("0-{end}")).collect();
    last.iter().for_each(|given| outstanding.add(task(5, "0-39", given)));
    let owed = &outstanding.tasks[&TaskId { tid: 5, start_time: 7 }];
    let kept: Vec<String> = owed.gifts().map(ToString::to_string).collect();
    assert_eq!(kept, ["0-8", "0-7", "0-6", "0-5", "0-4", "0-3", "0-2", "0-1", "0"]);
    assert_eq!(read_back(&outstanding.encode()), outstanding);
}

#[test]
fn of_a_ban_list_only_our_own_go() {
    let socket = "/run/irqbalance/irqbalance7.sock";
    // A manager bans 30 in between.
    let told = [irq(socket, "", "24 25"), irq(socket, "24 25 30", "24 25 26 30")];
    let outstanding: Outstanding = told.into_iter().collect();
    let change = &outstanding.files[socket].change;
    assert_eq!((change.before.as_str(), change.given.as_str()), ("", "24 25 26"));
    assert_eq!(read_back(&outstanding.encode()).files[socket].change, *change);
}

/// What a journal's text adds up to.
fn read_back(text: &str) -> Outstanding {
    decode(text.as_bytes()).entries.into_iter().collect()
}
