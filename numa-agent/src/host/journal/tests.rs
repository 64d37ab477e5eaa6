use std::{
    fs::OpenOptions,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::{PermissionsExt, symlink},
            net::{SocketAddr, UnixListener},
        },
    },
};

use super::*;
use crate::core::{
    idset::CpuSet,
    journal::{Class, FileClass},
    task::TaskId,
};

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

fn change(task: TaskId, before: &str, given: &str) -> TaskChange {
    let (before, given) = (set(before), set(given));
    TaskChange { pid: task.tid, task, comm: "x".into(), before, given }
}

fn file_change(path: &str) -> FileChange {
    let text = str::to_owned;
    FileChange {
        class: FileClass::Irq,
        path: path.into(),
        what: text("irq 1"),
        before: text("0"),
        given: text("1"),
        whose: None,
    }
}

fn myself() -> TaskId {
    let tid = std::process::id();
    TaskId { tid, start_time: Host.start_time(tid).unwrap() }
}

const ENDED: TaskId = TaskId { tid: u32::MAX >> 1, start_time: 1 };

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/journal");
    (dir, path)
}

fn entries(path: &Path) -> Vec<Entry> {
    let decoded = read(path).unwrap().unwrap();
    assert_eq!(decoded.damaged, 0);
    without_boot(decoded.entries)
}

/// All but the first line.
fn without_boot(mut entries: Vec<Entry>) -> Vec<Entry> {
    if !entries.is_empty() {
        assert_eq!(entries.remove(0), Entry::Boot { id: boot_id().unwrap() });
    }
    entries
}

#[test]
fn what_is_appended_is_read() {
    let (_dir, path) = place();
    assert_eq!(read(&path).unwrap(), None, "there is no folder");
    let mut journal = Journal::open(&path).unwrap();
    assert_eq!(read(&path.with_file_name("none")).unwrap(), None);
    journal.before_task(&change(ENDED, "0-7", "1")).unwrap();
    // Another process does the same.
    Journal::open(&path).unwrap().before_file(&file_change("/proc/irq/1/smp_affinity")).unwrap();
    let found = entries(&path);
    assert_eq!(found[0], Entry::Task(change(ENDED, "0-7", "1")));
    assert_eq!(found[1], Entry::File(file_change("/proc/irq/1/smp_affinity")));
    assert_eq!(found.len(), 2);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o022, 0);
}

#[test]
fn a_torn_line_spoils_no_other() {
    let (_dir, path) = place();
    let mut journal = Journal::open(&path).unwrap();
    journal.before_task(&change(ENDED, "0-7", "1")).unwrap();
    let torn = &Entry::Task(change(myself(), "0-7", "1")).encode()[..20];
    OpenOptions::new().append(true).open(&path).unwrap().write_all(torn.as_bytes()).unwrap();
    journal.before_task(&change(myself(), "0-6", "1")).unwrap();
    let decoded = read(&path).unwrap().unwrap();
    assert_eq!(decoded.damaged, 1);
    assert_eq!(without_boot(decoded.entries)[1], Entry::Task(change(myself(), "0-6", "1")));
}

#[test]
fn that_lines_were_lost_outlives_them() {
    let (_dir, path) = place();
    let mut journal = Journal::open(&path).unwrap();
    journal.before_task(&change(myself(), "0-7", "1")).unwrap();
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    // One that was damaged, and the half of one that its writer left.
    file.write_all(b"damaged\nhalf").unwrap();
    journal.rewrite().unwrap();
    journal.rewrite().unwrap();
    let decoded = read(&path).unwrap().unwrap();
    assert_eq!(decoded.damaged, 0);
    assert_eq!(this_boots(decoded).0.lost, 2);
    let irq = Some(Class::File(FileClass::Irq));
    let asked = |class: Option<Class>, dry_run| {
        let classes = class.into_iter().collect();
        crate::host::restore::restore(&path, &crate::host::restore::Asked { classes, dry_run })
            .unwrap()
            .damaged
    };
    assert_eq!((asked(irq, false), asked(irq, true)), (2, 2), "a part is undone, which is not all");
    // As one that has been told of another mask than we have is: nothing is changed here.
    Held::open(&path).unwrap().strike(&BTreeSet::from([Subject::Task(myself())]), true).unwrap();
    assert_eq!(asked(None, true), 0, "it has been told");
}

#[test]
fn another_kind_of_file_is_left_as_it_is() {
    let (_dir, path) = place();
    drop(Journal::open(&path).unwrap());
    for text in ["important\n", "a: 1\nb: 2", "{}"] {
        fs::write(&path, text).unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::Foreign(_))), "{text}");
        assert!(matches!(read(&path), Err(JournalError::Foreign(_))), "{text}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    // One whose beginning is damaged is a journal still.
    let line = Entry::Task(change(ENDED, "0-7", "1")).encode();
    fs::write(&path, format!("!{line}{line}")).unwrap();
    assert_eq!(read(&path).unwrap().unwrap().damaged, 1);
    Journal::open(&path).unwrap();
}

#[test]
fn it_is_rewritten_with_those_that_live_and_others_follow() {
    let (_dir, path) = place();
    let mut journal = Journal::open(&path).unwrap();
    let mut other = Journal::open(&path).unwrap();
    while !journal.is_long() {
        journal.before_task(&change(ENDED, "0-7", "1")).unwrap();
        journal.before_task(&change(myself(), "0-7", "1")).unwrap();
    }
    let there = path.to_str().unwrap();
    journal.before_file(&file_change(there)).unwrap();
    let rewritten = Journal::open(&path).unwrap();
    assert!(journal.is_long() && !rewritten.is_long(), "it has not looked");
    journal.rewrite().unwrap();
    let kept = [Entry::Task(change(myself(), "0-7", "1")), Entry::File(file_change(there))];
    assert_eq!(entries(&path), kept);
    other.before_file(&file_change("/b")).unwrap();
    journal.before_file(&file_change("/c")).unwrap();
    assert_eq!(entries(&path).len(), 4);
    other.rewrite().unwrap();
    assert_eq!(entries(&path), kept, "the others are of files that are not there");
    fs::remove_file(&path).unwrap();
    other.before_file(&file_change("/d")).unwrap();
    assert_eq!(entries(&path), [Entry::File(file_change("/d"))]);
}

#[test]
fn who_is_to_open_nothing_is_told_that_another_has_taken_its_place() {
    let (_dir, path) = place();
    let mut journal = Journal::open(&path).unwrap().staying();
    let mut other = Journal::open(&path).unwrap();
    journal.before_file(&file_change("/a")).unwrap();
    other.rewrite().unwrap();
    let error = journal.before_file(&file_change("/b")).unwrap_err();
    assert!(matches!(error, JournalError::Moved(_)), "{error}");
    assert_eq!(entries(&path), [], "not a line of it");
    let mut journal = Journal::open(&path).unwrap().staying();
    fs::remove_file(&path).unwrap();
    assert!(matches!(journal.before_file(&file_change("/b")), Err(JournalError::Moved(_))));
    assert_eq!(read(&path).unwrap(), None);
}

/// The change of a file in that folder, as it is now.
fn change_in(folder: &Path, name: &str) -> FileChange {
    let path = folder.join(name);
    fs::create_dir_all(folder).unwrap();
    fs::write(&path, "0\n").unwrap();
    FileChange { whose: whose(&path), ..file_change(path.to_str().unwrap()) }
}

#[test]
fn what_has_taken_the_place_of_another_is_left_alone() {
    let (dir, path) = place();
    let [cgroup, irq] = ["cpuset/a", "irq/9"].map(|name| dir.path().join(name));
    fs::create_dir_all(irq.join("eth0-rx-0")).unwrap();
    let told = [change_in(&cgroup, "cpuset.mems"), change_in(&irq, "smp_affinity_list")];
    assert!(told.iter().all(|change| change.whose.is_some()), "{told:?}");
    let mut journal = Journal::open(&path).unwrap();
    let mut undo = |is_there: bool| {
        for change in &told {
            journal.before_file(change).unwrap();
            fs::write(&change.path, &change.given).unwrap();
        }
        journal.rewrite().unwrap();
        assert_eq!(entries(&path).len(), if is_there { 2 } else { 0 });
        for change in &told {
            journal.before_file(change).unwrap();
        }
        let asked = crate::host::restore::Asked::default();
        let rows = crate::host::restore::restore(&path, &asked).unwrap().rows;
        let names: Vec<_> = rows.iter().map(|row| row.outcome.name()).collect();
        let values =
            told.each_ref().map(|change| fs::read_to_string(&change.path).unwrap().trim().to_owned());
        (names, values)
    };
    assert_eq!(undo(true), (vec!["restored"; 2], ["0".to_owned(), "0".to_owned()]));
    // The number is another device's; a cgroup of that name is made anew.
    fs::rename(irq.join("eth0-rx-0"), irq.join("nvme0q1")).unwrap();
    fs::rename(&cgroup, dir.path().join("cpuset/old")).unwrap();
    fs::create_dir(&cgroup).unwrap();
    assert_eq!(undo(false), (vec!["gone"; 2], ["1".to_owned(), "1".to_owned()]));
}

#[test]
fn what_comes_back_while_the_journal_is_rewritten_is_kept() {
    let change = |before: &str| Entry::File(FileChange { before: before.into(), ..file_change("/no/such") });
    let mut outstanding: Outstanding = [change("0")].into_iter().collect();
    let gone = gone(&outstanding);
    assert_eq!(gone.len(), 1);
    follow(&mut outstanding, &gone, Decoded { entries: vec![change("5")], damaged: 1 });
    assert_eq!((outstanding.files["/no/such"].change.before.as_str(), outstanding.lost), ("5", 1));
}

#[test]
fn the_ban_list_of_an_irqbalance_whose_socket_has_no_file_is_kept_while_that_is_there() {
    let (_dir, path) = place();
    let name = format!("irqbalance-{}.sock", std::process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let mut journal = Journal::open(&path).unwrap();
    let ban = file_change(&format!("/no/such/{name}"));
    journal.before_file(&ban).unwrap();
    journal.rewrite().unwrap();
    assert_eq!(entries(&path), [Entry::File(ban)]);
    drop(listener);
    journal.rewrite().unwrap();
    assert_eq!(entries(&path), []);
}

#[test]
fn many_who_append_and_rewrite_lose_nothing() {
    let (_dir, path) = place();
    thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let mut journal = Journal::open(path).unwrap().with_patience(Duration::from_secs(60));
                for number in 0..100 {
                    // A path to the same folder.
                    let there = format!("/proc/self/{}fd", "./".repeat(100 * writer + number));
                    journal.before_file(&file_change(&there)).unwrap();
                    if number % 10 == writer {
                        journal.rewrite().unwrap();
                    }
                }
            });
        }
    });
    let outstanding: Outstanding = entries(&path).into_iter().collect();
    assert_eq!(outstanding.files.len(), 400);
}

#[test]
fn who_finds_it_locked_waits_for_a_while() {
    let (_dir, path) = place();
    let mut journal = Journal::open(&path).unwrap().with_patience(Duration::from_millis(20));
    let other = Journal::open(&path).unwrap();
    sys::lock(&other.file, true).unwrap();
    let error = journal.before_file(&file_change("/a")).unwrap_err();
    assert!(matches!(error, JournalError::Busy(_)), "{error}");
    drop(other);
    journal.before_file(&file_change("/a")).unwrap();
}

#[test]
fn agents_and_who_undoes_their_work_keep_out_of_each_others_way() {
    let (_dir, path) = place();
    let attend = |ms| attend(&path, Duration::from_millis(ms));
    assert!(keep_agents_out(&path).unwrap().is_none() && attend(0).unwrap().is_none(), "there is no folder");
    Journal::open(&path).unwrap();
    let (one, other) = (attend(0).unwrap(), attend(0).unwrap());
    assert!(one.is_some() && other.is_some());
    drop(one);
    assert!(matches!(keep_agents_out(&path), Err(JournalError::Attended(_))));
    drop(other);
    let alone = keep_agents_out(&path).unwrap();
    assert!(alone.is_some());
    assert!(matches!(keep_agents_out(&path), Err(JournalError::BeingRestored(_))));
    assert!(matches!(attend(20), Err(JournalError::BeingRestored(_))));
    thread::scope(|scope| {
        let agent = scope.spawn(|| attend(60_000).unwrap());
        drop(alone);
        assert!(agent.join().unwrap().is_some(), "it has waited");
    });
}

#[test]
fn what_is_changed_while_it_is_undone_is_not_forgotten() {
    let (_dir, path) = place();
    let told = change(myself(), "0-7", "1");
    Journal::open(&path).unwrap().before_task(&told).unwrap();
    let held = Held::open(&path).unwrap();
    assert_eq!(without_boot(held.read().unwrap().entries), [Entry::Task(told.clone())]);
    thread::scope(|scope| {
        let agent = scope.spawn(|| {
            let mut journal = Journal::open(&path).unwrap().with_patience(Duration::from_secs(60));
            journal.before_task(&told).unwrap();
        });
        // It writes now, if anything lets it.
        thread::sleep(Duration::from_millis(100));
        held.strike(&[Subject::Task(told.task)].into(), true).unwrap();
        agent.join().unwrap();
    });
    assert_eq!(entries(&path), [Entry::Task(told)]);
    let held = Held::open(&path).unwrap();
    held.strike(&[Subject::Task(myself())].into(), true).unwrap();
    assert_eq!(entries(&path), []);
}

#[test]
fn what_another_boot_has_left_is_dropped() {
    let (_dir, path) = place();
    let mine = change(myself(), "0-7", "1");
    let (boot, line) = (Entry::Boot { id: "another".into() }.encode(), Entry::Task(mine.clone()).encode());
    drop(Journal::open(&path).unwrap());
    fs::write(&path, format!("{boot}{line}")).unwrap();
    assert_eq!(
        this_boots(read(&path).unwrap().unwrap()),
        (Outstanding { boot: boot_id(), ..Outstanding::default() }, 1)
    );
    drop(Journal::open(&path).unwrap());
    assert_eq!(entries(&path), []);
    // An older version told of no boot; what is damaged is not hidden.
    fs::write(&path, &line).unwrap();
    drop(Journal::open(&path).unwrap());
    assert_eq!(entries(&path), [Entry::Task(mine)]);
    fs::write(&path, format!("{line}!{line}")).unwrap();
    drop(Journal::open(&path).unwrap());
    assert_eq!(read(&path).unwrap().unwrap().damaged, 1);
    fs::write(&path, format!("{boot}!{line}{line}")).unwrap();
    drop(Journal::open(&path).unwrap());
    assert_eq!(entries(&path), []);
}

#[test]
fn what_others_may_write_is_refused() {
    let (dir, path) = place();
    Journal::open(&path).unwrap();
    let refused = |part: &str| {
        for error in [Journal::open(&path).map(drop).unwrap_err(), read(&path).map(drop).unwrap_err()] {
            assert!(error.to_string().contains(part), "{error}");
        }
    };
    let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    chmod(&path, 0o620);
    refused("it may be written by others (mode 620)");
    chmod(&path, 0o600);
    for folder in [path.parent().unwrap(), dir.path()] {
        chmod(folder, 0o770);
        refused(&format!("the folder {} may be written by others", folder.display()));
        chmod(folder, 0o1777);
        Journal::open(&path).unwrap();
        chmod(folder, 0o700);
    }
    fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    symlink(dir.path().join("elsewhere"), &path).unwrap();
    refused("opening");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(Journal::open(&path).is_err() && read(&path).is_err());
    fs::remove_dir(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused("is no regular file");
}

#[test]
fn what_belongs_to_another_is_refused() {
    if sys::own_uid() != 0 {
        eprintln!("SKIP: what_belongs_to_another_is_refused: needs root");
        return;
    }
    let (_dir, path) = place();
    Journal::open(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
    let error = Journal::open(&path).unwrap_err();
    assert!(error.to_string().contains("it belongs to the user 65534"), "{error}");
    std::os::unix::fs::chown(path.parent().unwrap(), Some(65534), None).unwrap();
    let error = read(&path).unwrap_err();
    assert!(error.to_string().contains("belongs to the user 65534"), "{error}");
}

#[test]
fn one_that_has_grown_too_long_takes_no_more() {
    let (_dir, path) = place();
    let mut journal = Journal::open(&path).unwrap();
    journal.before_file(&file_change("/a")).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(MAX_BYTES - 1).unwrap();
    let error = journal.before_file(&file_change("/b")).unwrap_err();
    assert!(matches!(error, JournalError::Full(_)), "{error}");
}
