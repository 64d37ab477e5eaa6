//! What passes, what fails, what nobody knows, and what cannot be compared.

use super::*;
use crate::core::{
    jitter::{
        figures::{Figures, OffNode},
        recording::Subject,
        sample, tokens,
    },
    task::ThreadRole,
};

/// A recording of the sample's kind, with the forward threads' figures as given.
fn recorded(started_at: &str, figures: &Figures) -> Recording {
    let mut recording = sample::recording();
    recording.runs[0].started_at = started_at.into();
    recording.connections.clear();
    for thread in recording.threads.iter_mut().filter(|thread| thread.role == ThreadRole::Forward) {
        thread.figures = figures.clone();
    }
    recording
}

fn before() -> Recording {
    recorded("before", &sample::figures(60, &[20_000; 2000]))
}

fn after() -> Recording {
    recorded("after", &sample::figures(60, &[10_000; 2000]))
}

fn of(recording: &Recording) -> Side<'_> {
    Side { file: "x.json", recording, tokens: None }
}

fn verdict(comparison: &Comparison, name: Name) -> (Verdict, String) {
    let criterion =
        comparison.criteria.iter().find(|criterion| criterion.name == name).expect("the criterion");
    (criterion.verdict, criterion.why.clone())
}

/// The verdict on two recordings that can be compared.
fn judged(base: &Recording, bound: &Recording, limits: Limits, name: Name) -> (Verdict, String) {
    let comparison = compare(of(base), of(bound), limits);
    assert_eq!(comparison.reasons, [""; 0]);
    verdict(&comparison, name)
}

fn tokens_of(gaps_ns: impl IntoIterator<Item = u64>) -> Tokens {
    let mut at = 0;
    let text = gaps_ns.into_iter().fold("t_ns\n0\n".to_owned(), |text, gap| {
        at += gap;
        format!("{text}{at}\n")
    });
    tokens::parse("x", text.as_bytes()).unwrap()
}

fn with_moves(mut recording: Recording, between_nodes: u64, within: u64) -> Recording {
    let thread = recording.threads.iter_mut().find(|thread| thread.role == ThreadRole::Forward).unwrap();
    let span = &mut thread.figures.migrations.as_mut().unwrap().by_span;
    (span.socket, span.core) = (between_nodes, within);
    recording
}

#[test]
fn a_millisecond_of_fluctuation_is_the_limit() {
    let (before, after) = (before(), after());
    let verdict_on = |p99_ns: u64, limits: Limits| {
        // 30 ms, and every fiftieth longer.
        let tokens = tokens_of((0..2000).map(|index| if index % 50 == 0 { p99_ns } else { 30_000_000 }));
        let side = Side { tokens: Some(&tokens), ..of(&after) };
        verdict(&compare(of(&before), side, limits), Name::Fluctuation).0
    };
    assert_eq!(verdict_on(31_000_000, Limits::default()), Verdict::Pass);
    assert_eq!(verdict_on(31_000_001, Limits::default()), Verdict::Fail);
    let wide = Limits { max_fluctuation_ns: 2_000_000, ..Limits::default() };
    assert_eq!(verdict_on(31_000_001, wide), Verdict::Pass);
    // Between the 5th and the 95th percentile there is nothing of it.
    let other = Limits { fluctuation: Fluctuation::P95P5, ..Limits::default() };
    assert_eq!(verdict_on(90_000_000, other), Verdict::Pass);
}

#[test]
fn tokens_that_nobody_measured_pass_nothing() {
    let (before, mut after) = (before(), after());
    let comparison = compare(of(&before), of(&after), Limits::default());
    let (verdict_of_none, why) = verdict(&comparison, Name::Fluctuation);
    assert_eq!(verdict_of_none, Verdict::NotMeasured);
    assert!(why.contains("give both token files, or record with --tap"), "{why}");
    assert!(comparison.passed(), "the others passed");
    let required = Limits { required: vec![Name::Fluctuation], ..Limits::default() };
    assert!(!compare(of(&before), of(&after), required).passed());
    // A few sends on a tapped socket are not enough.
    after.connections = sample::recording().connections;
    let tapped = Tokens::tapped(&after).unwrap();
    let side = Side { tokens: Some(&tapped), ..of(&after) };
    let (few, why) = verdict(&compare(of(&before), side, Limits::default()), Name::Fluctuation);
    assert!(few == Verdict::NotMeasured && why.contains("3 gaps between sends"), "{why}");
}

#[test]
fn nothing_measured_is_nothing_proven() {
    let blank = |at| {
        let mut recording = recorded(at, &Figures { followed_ns: 60_000_000_000, ..Figures::default() });
        recording.threads.retain(|thread| thread.role == ThreadRole::Forward);
        recording
    };
    let (before, after) = (blank("before"), blank("after"));
    let comparison = compare(of(&before), of(&after), Limits::default());
    assert_eq!(comparison.count(Verdict::NotMeasured), comparison.criteria.len());
    assert!(!comparison.passed());
}

#[test]
fn waits_may_be_longer_by_the_tolerance_only() {
    let wait = |base: u64, bound: u64, limits: Limits| {
        let base = recorded("before", &sample::figures(60, &[base; 2000]));
        let bound = recorded("after", &sample::figures(60, &[bound; 2000]));
        judged(&base, &bound, limits, Name::Wait).0
    };
    // Base is in the bucket from 16 384 to 18 431 ns, the next ends at 20 479.
    let none = || Limits { wait_tolerance: 0.0, ..Limits::default() };
    assert_eq!(wait(17_000, 1000, none()), Verdict::Pass);
    assert_eq!(wait(16_384, 18_431, none()), Verdict::Pass, "who knows");
    assert_eq!(wait(18_431, 18_432, none()), Verdict::Fail, "in the next bucket, so it is longer");
    // A tenth on top of 18 431 ns.
    assert_eq!(wait(17_000, 20_274, Limits::default()), Verdict::Pass);
    assert_eq!(wait(17_000, 20_300, Limits::default()), Verdict::Fail);
    let tolerant = Limits { wait_tolerance: 0.5, ..Limits::default() };
    assert_eq!(wait(17_000, 27_000, tolerant.clone()), Verdict::Pass);
    assert_eq!(wait(17_000, 28_000, tolerant), Verdict::Fail);
    // What is longer than the histograms tell apart could be any longer.
    assert_eq!(wait(70_000_000_000, 900_000_000_000, Limits::default()), Verdict::NotMeasured);
    assert_eq!(wait(60_000_000_000, 900_000_000_000, Limits::default()), Verdict::Fail);
}

#[test]
fn a_limit_is_held_against_the_end_of_the_bucket() {
    let limited = |ns| Limits { max_wait_ns: Some(ns), ..Limits::default() };
    // All but one of 2000 waits are in the bucket from 16 384 to 18 431 ns.
    let mut waits = [16_500; 2000];
    waits[0] = 90_000;
    let bound = recorded("after", &sample::figures(60, &waits));
    assert_eq!(judged(&before(), &bound, limited(18_431), Name::WaitLimit).0, Verdict::Pass);
    assert_eq!(judged(&before(), &bound, limited(18_430), Name::WaitLimit).0, Verdict::Fail);
    // None was longer than the longest.
    let bound = recorded("after", &sample::figures(60, &[16_500; 2000]));
    assert_eq!(judged(&before(), &bound, limited(16_500), Name::WaitLimit).0, Verdict::Pass);
    assert_eq!(judged(&before(), &bound, limited(16_499), Name::WaitLimit).0, Verdict::Fail);
    let (before, after) = (before(), after());
    assert_eq!(judged(&before, &after, limited(5_000), Name::Wait).0, Verdict::Pass);
    assert!(
        compare(of(&before), of(&after), Limits::default())
            .criteria
            .iter()
            .all(|criterion| criterion.name != Name::WaitLimit)
    );
}

#[test]
fn preemption_is_a_wait_too() {
    let mut figures = sample::figures(60, &[10_000; 2000]);
    figures.preempt_wait = sample::figures(60, &[9_000_000; 100]).wake_wait;
    let bound = recorded("after", &figures);
    assert_eq!(judged(&before(), &bound, Limits::default(), Name::Wait).0, Verdict::Fail);
}

#[test]
fn threads_that_never_waited_are_as_good_as_it_gets() {
    let still = recorded("after", &sample::figures(60, &[]));
    let (verdict_of_still, why) = judged(&before(), &still, Limits::default(), Name::Wait);
    assert_eq!((verdict_of_still, why.as_str()), (Verdict::Pass, "they never waited"));
    let still = recorded("before", &sample::figures(60, &[]));
    let (worse, why) = judged(&still, &after(), Limits::default(), Name::Wait);
    assert_eq!((worse, why.as_str()), (Verdict::Fail, "base never waited"));
}

#[test]
fn waits_that_nobody_saw_begin_pass_nothing() {
    let with = |program: &str| {
        let (mut base, mut bound) = (before(), after());
        for run in base.runs.iter_mut().chain(&mut bound.runs) {
            run.missing = vec![format!("{program}: something not measured")];
            run.missing_programs = vec![program.into()];
        }
        let limits = Limits { max_wait_ns: Some(1_000_000_000), ..Limits::default() };
        [Name::Wait, Name::WaitLimit].map(|name| judged(&base, &bound, limits.clone(), name).0)
    };
    for program in ["wakeup", "wakeup_new", "switch"] {
        assert_eq!(with(program), [Verdict::NotMeasured; 2], "{program}");
    }
    assert_eq!(with("irq_enter"), [Verdict::Pass; 2]);
    // One that says of something missing, and not what: nobody knows.
    let (mut base, mut bound) = (before(), after());
    base.runs[0].missing = vec!["x".into()];
    bound.runs[0].missing = vec!["x".into()];
    let (unknown, why) = judged(&base, &bound, Limits::default(), Name::Wait);
    assert!(unknown == Verdict::NotMeasured && why.contains("program switch is missing"), "{why}");
}

#[test]
fn a_part_is_not_taken_for_all() {
    // The forward threads run 30 s each; of the second only part is known to be at home.
    let off_node = |known_ns: u64| {
        let mut bound = after();
        let forward = bound.threads.iter_mut().filter(|thread| thread.role == ThreadRole::Forward);
        let [first, second] = &mut forward.collect::<Vec<_>>()[..] else { panic!("two threads") };
        first.figures.run_ns = known_ns;
        second.figures.run_ns = 60_000_000_000 - known_ns;
        second.figures.off_node = None;
        judged(&before(), &bound, Limits::default(), Name::OffNode)
    };
    let words = "known of 90.0 % of bound's CPU time".to_owned();
    assert_eq!(off_node(54_000_000_000), (Verdict::Pass, words));
    let words = "bound: time off node is known of 89.9 % of their CPU time only".to_owned();
    assert_eq!(off_node(53_999_999_999), (Verdict::NotMeasured, words));
    assert_eq!(judged(&before(), &after(), Limits::default(), Name::OffNode).1, "");
}

#[test]
fn a_hundredth_of_the_time_may_be_off_node() {
    let off_node = |ns| {
        let off_node = Some(OffNode { ns, ..OffNode::default() });
        let bound = recorded("after", &Figures { off_node, ..sample::figures(60, &[10_000; 2000]) });
        judged(&before(), &bound, Limits::default(), Name::OffNode).0
    };
    // The threads ran 30 s each.
    assert_eq!(off_node(300_000_000), Verdict::Pass);
    assert_eq!(off_node(300_000_001), Verdict::Fail);
    let unknown = recorded("after", &Figures { off_node: None, ..sample::figures(60, &[10_000; 2000]) });
    assert_eq!(judged(&before(), &unknown, Limits::default(), Name::OffNode).0, Verdict::NotMeasured);
}

#[test]
fn with_one_node_there_is_nowhere_to_be_off() {
    let with_one = |mut recording: Recording| {
        recording.runs[0].host.nodes.retain(|node, _| *node == 0);
        recording
    };
    for name in [Name::OffNode, Name::NodeMoves] {
        let two = judged(&before(), &after(), Limits::default(), name).1;
        let one = judged(&with_one(before()), &with_one(after()), Limits::default(), name).1;
        assert!(one.contains("one node") && !two.contains("one node"), "{one}; {two}");
    }
}

#[test]
fn moves_may_not_be_more_but_for_the_binding_itself() {
    let verdicts = |base: (u64, u64), bound: (u64, u64)| {
        let base = with_moves(before(), base.0, base.1);
        let bound = with_moves(after(), bound.0, bound.1);
        [Name::NodeMoves, Name::Moves].map(|name| judged(&base, &bound, Limits::default(), name).0)
    };
    use Verdict::{Fail, Pass};
    assert_eq!(verdicts((10, 90), (10, 90)), [Pass, Pass]);
    assert_eq!(verdicts((10, 90), (11, 10)), [Fail, Pass]);
    assert_eq!(verdicts((10, 90), (0, 101)), [Pass, Fail]);
    assert_eq!(verdicts((0, 0), (1, 0)), [Fail, Fail]);
    // Each of the two forward threads may have been moved once, by its own mask.
    let by_cause = |bound: [(u64, u64, u64, u64); 2]| {
        let mut after = after();
        let forward = after.threads.iter_mut().filter(|thread| thread.role == ThreadRole::Forward);
        for (thread, (affinity, load_balancer, between_nodes, within)) in forward.zip(bound) {
            let moves = thread.figures.migrations.as_mut().unwrap();
            (moves.by_cause.affinity, moves.by_cause.load_balancer) = (affinity, load_balancer);
            (moves.by_span.socket, moves.by_span.core) = (between_nodes, within);
        }
        [Name::NodeMoves, Name::Moves].map(|name| judged(&before(), &after, Limits::default(), name).0)
    };
    assert_eq!(by_cause([(1, 0, 1, 0), (1, 0, 1, 0)]), [Pass, Pass]);
    assert_eq!(by_cause([(2, 0, 2, 0), (0, 0, 0, 0)]), [Fail, Fail], "somebody quarrels");
    assert_eq!(by_cause([(2, 0, 0, 2), (0, 0, 0, 0)]), [Pass, Fail]);
    assert_eq!(by_cause([(1, 0, 0, 1), (1, 0, 0, 1)]), [Pass, Pass]);
    assert_eq!(by_cause([(1, 0, 0, 1), (0, 1, 1, 0)]), [Fail, Fail], "the one does not excuse the other");
    assert_eq!(by_cause([(1, 1, 1, 1), (0, 0, 0, 0)]), [Fail, Fail], "which was between nodes?");
    let mut uncounted = after();
    uncounted.threads.iter_mut().for_each(|thread| thread.figures.migrations = None);
    let (unknown, why) = judged(&before(), &uncounted, Limits::default(), Name::Moves);
    assert_eq!((unknown, why.as_str()), (Verdict::NotMeasured, "bound: moves were not counted"));
    let (unknown, why) = judged(&uncounted, &with_moves(before(), 1, 1), Limits::default(), Name::Moves);
    assert_eq!((unknown, why.as_str()), (Verdict::NotMeasured, "base: moves were not counted"));
}

#[test]
fn rates_are_by_thread_and_second() {
    // Twice as many threads for twice the time may move four times as often.
    let base = with_moves(before(), 0, 100);
    let mut bound = recorded("after", &sample::figures(120, &[10_000; 2000]));
    bound.runs[0].seconds = 120.0;
    let more: Vec<_> =
        bound.threads.iter().filter(|thread| thread.role == ThreadRole::Forward).cloned().collect();
    bound.threads.extend(more);
    assert_eq!(
        judged(&base, &with_moves(bound.clone(), 0, 400), Limits::default(), Name::Moves).0,
        Verdict::Pass
    );
    assert_eq!(judged(&base, &with_moves(bound, 0, 401), Limits::default(), Name::Moves).0, Verdict::Fail);
}

type Change = fn(&mut Recording);

#[test]
fn what_cannot_be_compared_is_said_with_the_way_out() {
    let cases: [(&str, Change); 19] = [
        ("the run on infer-07 at before is in both", |r| r.runs[0].started_at = "before".into()),
        ("different hosts: base is of infer-07, bound of infer-08; record both on the same", |r| {
            r.runs[0].host.name = "infer-08".into();
        }),
        ("infer-07: another machine of that name", |r| r.runs[0].host.machine_id = "other".into()),
        ("infer-07: another kernel: base has \"6.6.0\", bound \"6.7\"", |r| {
            r.runs[0].host.kernel = "6.7".into()
        }),
        ("infer-07: another architecture", |r| r.runs[0].host.arch = "x86_64".into()),
        ("infer-07: another set of nodes", |r| drop(r.runs[0].host.nodes.remove(&1))),
        ("infer-07: another set of sockets", |r| r.runs[0].host.sockets.clear()),
        (
            "different plans: socket0_group0 is on 0-3 / 4-7 in base, nowhere in bound; record both with",
            |r| {
                let Subject::Plan { groups, .. } = &mut r.runs[0].subject else { panic!("a plan") };
                groups.clear();
            },
        ),
        ("different plans: paired and generic policy", |r| {
            let Subject::Plan { policy, .. } = &mut r.runs[0].subject else { panic!("a plan") };
            *policy = "generic".into();
        }),
        ("one has a plan and the other has another or none", |r| {
            r.runs[0].subject = Subject::Processes { what: "pid 7".into() };
        }),
        (
            "bound is too short: 9.9 s on infer-07; record at least 10 s, or allow less by `jitter compare --min-seconds`",
            |r| {
                r.runs[0].seconds = 9.9;
            },
        ),
        ("infer-07: of very different length: base 60.0 s, bound 241.0 s", |r| r.runs[0].seconds = 241.0),
        ("infer-07: another kernel: base has \"6.6.0\", bound \"6.6.0\" and \"6.7\"", |r| {
            let mut again = r.runs[0].clone();
            (again.started_at, again.host.kernel) = ("later".into(), "6.7".into());
            r.runs.push(again);
        }),
        ("the run on infer-07 at before is in both", |r| {
            // A service says more of the same.
            (r.runs[0].started_at, r.runs[0].seconds) = ("before".into(), 90.0);
        }),
        ("not the same work: 100.0 % of a CPU used by the threads that matter in base, 40.0 in bound", |r| {
            r.threads.iter_mut().for_each(|thread| thread.figures.run_ns = 12_000_000_000);
        }),
        ("bound is not complete: 5 in the ring; record again", |r| {
            r.runs[0].lost = vec!["5 in the ring".into()]
        }),
        ("bound lacks what base has measured: interrupts", |r| r.runs[0].missing = vec!["interrupts".into()]),
        ("bound has no threads; record while the service runs", |r| r.threads.clear()),
        ("the threads that matter are the forward threads in base, the threads of groups in bound", |r| {
            r.threads.retain(|thread| thread.role != ThreadRole::Forward);
        }),
    ];
    for (words, change) in cases {
        let (before, mut after) = (before(), after());
        change(&mut after);
        let reasons = compare(of(&before), of(&after), Limits::default()).reasons;
        assert!(reasons.iter().any(|reason| reason.contains(words)), "{words}: {reasons:#?}");
    }
    assert_eq!(compare(of(&before()), of(&after()), Limits::default()).reasons, [""; 0]);
}

#[test]
fn limits_of_length_are_the_users() {
    let (mut before, mut after) = (before(), after());
    (before.runs[0].seconds, after.runs[0].seconds) = (50.0, 5.0);
    let reasons = |limits| compare(of(&before), of(&after), limits).reasons;
    assert!(reasons(Limits::default()).len() >= 2);
    let lax = Limits { min_seconds: 1.0, max_length_ratio: 10.0, ..Limits::default() };
    assert!(!reasons(lax).iter().any(|reason| reason.contains("length") || reason.contains("short")));
}

#[test]
fn swapped_files_are_noticed() {
    let (mut before, after) = (before(), after());
    before.runs[0].bound = true;
    let reasons = compare(of(&before), of(&after), Limits::default()).reasons;
    assert!(reasons[0].contains("are the two files swapped?"), "{reasons:?}");
    before.runs[0].bound = false;
    let mut bound = after;
    bound.runs[0].bound = true;
    assert_eq!(compare(of(&before), of(&bound), Limits::default()).reasons, [""; 0]);
}

#[test]
fn a_service_that_was_restarted_is_the_same_service() {
    let processes = |mut recording: Recording, what: &str| {
        recording.runs[0].subject = Subject::Processes { what: what.into() };
        recording
    };
    let (before, mut after) = (processes(before(), "pid 10"), processes(after(), "pid 4711"));
    assert_eq!(compare(of(&before), of(&after), Limits::default()).reasons, [""; 0]);
    after.processes[0].comm = "another".into();
    let reasons = compare(of(&before), of(&after), Limits::default()).reasons;
    assert!(
        reasons[0].starts_with("of different processes: base of pid 10, bound of pid 4711"),
        "{reasons:?}"
    );
    // A pid is given again.
    after.runs[0].subject = before.runs[0].subject.clone();
    let reasons = compare(of(&before), of(&after), Limits::default()).reasons;
    assert!(reasons[0].starts_with("of different processes: base of pid 10, bound of pid 10"), "{reasons:?}");
}

#[test]
fn half_the_instances_are_not_the_same_work() {
    let (before, mut after) = (before(), after());
    for _ in 0..4 {
        let more = after.threads[1].clone();
        after.threads.push(more);
    }
    let reasons = compare(of(&before), of(&after), Limits::default()).reasons;
    assert!(reasons[0].contains("2.0 threads that matter at a time in base, 6.0 in bound"), "{reasons:?}");
}

#[test]
fn details_that_were_lost_are_no_reason() {
    let (before, mut after) = (before(), after());
    after.runs[0].lost_detail = vec!["7 moves".into()];
    let compared = compare(of(&before), of(&after), Limits::default());
    assert_eq!((compared.reasons, compared.notes), (vec![], vec!["bound: 7 moves".to_owned()]));
}

#[test]
fn other_tokens_are_not_the_same_work() {
    let (before, after) = (before(), after());
    let many = tokens_of(vec![30_000_000; 4000]);
    let many = Tokens { requests: 100, ..many };
    let reasons = |bound: Tokens, limits: Limits| {
        let base = Side { tokens: Some(&many), ..of(&before) };
        compare(base, Side { tokens: Some(&bound), ..of(&after) }, limits).reasons
    };
    let few = Tokens { requests: 50, ..tokens_of(vec![30_000_000; 2000]) };
    assert_eq!(reasons(few, Limits::default()), [""; 0]);
    let fewer = Tokens { requests: 49, ..tokens_of(vec![30_000_000; 1999]) };
    let said = reasons(fewer.clone(), Limits::default());
    assert!(said[0].starts_with("not the same work: 100.0 requests in base, 49.0 in bound"), "{said:?}");
    assert!(
        said[1].starts_with("not the same work: 66.7 times between tokens a second in base, 33.3"),
        "{said:?}"
    );
    assert_eq!(reasons(fewer, Limits { max_work_ratio: 2.1, ..Limits::default() }), [""; 0]);
    let failed = |failed| Tokens { failed, requests: 95, ..many.clone() };
    assert_eq!(reasons(failed(5), Limits::default()), [""; 0]);
    let said = reasons(failed(6), Limits::default());
    assert!(
        said[0].starts_with("5.9 % of bound's requests failed") && said[0].contains("--max-failed` (now 5%)")
    );
    assert_eq!(reasons(failed(6), Limits { max_failed: 0.06, ..Limits::default() }), [""; 0]);
}

#[test]
fn the_order_of_hosts_is_no_matter() {
    let hosts = |[first, second]: [&str; 2], at: &str, plans: bool| {
        let of = |host: &str| {
            let mut recording = recorded(&format!("{at} {host}"), &sample::figures(60, &[10_000; 2000]));
            let run = &mut recording.runs[0];
            (run.host.name, run.host.machine_id) = (host.into(), host.into());
            let Subject::Plan { others, .. } = &mut run.subject else { panic!("a plan") };
            *others = host.into();
            if !plans {
                run.subject = Subject::Processes { what: format!("pid {at}") };
                recording.processes[0].comm = host.into();
            }
            recording
        };
        let mut both = of(first);
        both.merge(of(second));
        both
    };
    for plans in [true, false] {
        let before = hosts(["a", "b"], "before", plans);
        let mut after = hosts(["b", "a"], "after", plans);
        assert_eq!(compare(of(&before), of(&after), Limits::default()).reasons, [""; 0]);
        if plans {
            let Subject::Plan { others, .. } = &mut after.runs[0].subject else { panic!("a plan") };
            *others = "a".into();
        } else {
            after.processes[0].comm = "a".into();
        }
        let reasons = compare(of(&before), of(&after), Limits::default()).reasons;
        assert!(reasons.len() == 1 && reasons[0].starts_with("b: "), "{reasons:?}");
    }
}

#[test]
fn token_files_are_long_enough_and_of_one_kind() {
    let (before, after) = (before(), after());
    let (few, many) = (tokens_of(vec![30_000_000; 10]), tokens_of(vec![30_000_000; 1000]));
    let reasons = |base, bound| {
        let base = Side { tokens: Some(base), ..of(&before) };
        compare(base, Side { tokens: Some(bound), ..of(&after) }, Limits::default()).reasons
    };
    assert_eq!(reasons(&many, &many), [""; 0]);
    assert!(
        reasons(&few, &many)
            .iter()
            .any(|reason| reason.starts_with("base has 10 times between tokens, too few"))
    );
    let other = Tokens { source: Source::Vllm, ..many.clone() };
    assert!(reasons(&many, &other)[0].contains("base's by timestamps, bound's by vLLM benchmark"));
}

#[test]
fn what_one_should_know_is_noted() {
    let (before, mut after) = (before(), after());
    after.runs[0].agent_version = "0.2.0".into();
    let gaps = (0..1000).map(|index| if index % 10 == 0 { 50 } else { 30_000_000 });
    let tokens = Tokens { failed: 3, notes: vec!["beware".into()], ..tokens_of(gaps) };
    let side = Side { tokens: Some(&tokens), ..of(&after) };
    let notes = compare(of(&before), side, Limits::default()).notes;
    let expected = [
        "different versions of numa-agent: 0.1.0 and 0.2.0",
        "bound: beware",
        "bound: 3 of 4 requests failed",
        "bound: 10 % of the token times are below 0.1 ms",
    ];
    for (note, words) in notes.iter().zip(expected) {
        assert!(note.contains(words), "{words}: {note}");
    }
    assert_eq!(notes.len(), expected.len());
    let mut merged = before.clone();
    merged.merge(recorded("later", &sample::figures(60, &[20_000; 2000])));
    // Runs of one host count together.
    assert_eq!(compare(of(&merged), of(&after), Limits::default()).reasons, [""; 0]);
}
