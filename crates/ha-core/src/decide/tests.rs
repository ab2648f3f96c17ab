use super::*;
use crate::epoch::Epoch;

const STOPPED: Stopped =
    Stopped { crash: Crash::None, relation: Relation::Uncompared, grace: Grace::Waiting };

const fn stopped(relation: Relation) -> Instance {
    Instance::Stopped(Stopped { relation, ..STOPPED })
}

const fn crashed(crash: Crash) -> Instance {
    Instance::Stopped(Stopped { crash, ..STOPPED })
}

fn n2() -> NodeId {
    "n2".parse().expect("a valid name")
}

fn view(lease: LeaseView, instance: Instance, bootstrap: Option<u64>) -> View {
    let holder = match lease {
        LeaseView::Theirs => Some(n2()),
        LeaseView::Granted | LeaseView::Ours | LeaseView::Lapsed | LeaseView::Forfeited => {
            Some("n1".parse().expect("a valid name"))
        }
        LeaseView::Unknown | LeaseView::Vacant => None,
    };
    View {
        lease,
        epoch: Epoch(7),
        holder,
        instance,
        bootstrap,
        catch_up: CatchUp::Done,
        order: Order::None,
    }
}

fn all_instances() -> Vec<Instance> {
    use Instance as I;
    let mut all = vec![I::Unseen, I::Empty, I::HalfMade, I::Broken, I::Stopping];
    for crash in [Crash::None, Crash::Unassessed, Crash::FailOver, Crash::RestartInPlace] {
        for relation in [
            Relation::Uncompared,
            Relation::Ancestor,
            Relation::Diverged,
            Relation::CloneOnly,
            Relation::Manual,
        ] {
            for grace in [Grace::Waiting, Grace::Over] {
                all.push(I::Stopped(Stopped { crash, relation, grace }));
            }
        }
    }
    all.extend([Starting::Standby, Starting::InPlace, Starting::InPlaceTooLong].map(I::Starting));
    all.extend(UPSTREAMS.map(I::Standby));
    all.extend([Health::Fine, Health::SickReplaceable, Health::SickAlone].map(I::Primary));
    let jobs = [Job::Promote, Job::Initdb, Job::Clone, Job::Rewind, Job::Prepare, Job::HandOver];
    all.extend(jobs.map(I::Working));
    all
}

const LEASES: [LeaseView; 7] = [
    LeaseView::Unknown,
    LeaseView::Vacant,
    LeaseView::Theirs,
    LeaseView::Granted,
    LeaseView::Ours,
    LeaseView::Lapsed,
    LeaseView::Forfeited,
];

const UPSTREAMS: [Upstream; 5] =
    [Upstream::Right, Upstream::Wrong, Upstream::Stuck, Upstream::Starved, Upstream::Diverged];

const CATCH_UPS: [CatchUp; 3] = [CatchUp::Done, CatchUp::Needed, CatchUp::Failed];

fn whole_product() -> impl Iterator<Item = View> {
    LEASES.into_iter().flat_map(|lease| {
        all_instances().into_iter().flat_map(move |instance| {
            [None, Some(3)].into_iter().flat_map(move |bootstrap| {
                let view = view(lease, instance, bootstrap);
                CATCH_UPS.map(|catch_up| View { catch_up, ..view.clone() })
            })
        })
    })
}

const fn may_write(instance: Instance) -> bool {
    matches!(
        instance,
        Instance::Primary(_)
            | Instance::Starting(Starting::InPlace | Starting::InPlaceTooLong)
            | Instance::Working(Job::Promote)
    )
}

#[test]
fn a_primary_serves_only_under_a_lease_it_can_still_prove() {
    let primary = Instance::Primary(Health::Fine);
    #[rustfmt::skip]
    let table = [
        (LeaseView::Ours,      Rule::Serving,      Step::Stay),
        (LeaseView::Lapsed,    Rule::NoProof,      Step::Fence),
        (LeaseView::Granted,   Rule::StalePrimary, Step::Fence),
        (LeaseView::Forfeited, Rule::StalePrimary, Step::Fence),
        (LeaseView::Theirs,    Rule::StalePrimary, Step::Fence),
        (LeaseView::Vacant,    Rule::StalePrimary, Step::Fence),
        // The guard holds it to its permit; the state it would be judged by is older than the permit.
        (LeaseView::Unknown,   Rule::CatchingUp,   Step::Stay),
    ];
    for (lease, rule, step) in table {
        assert_eq!(decide(&view(lease, primary, None)), Decision { rule, step }, "{lease:?}");
    }
}

#[test]
fn under_its_lease_a_node_promotes_recovers_or_gives_it_back() {
    let epoch = Epoch(7);
    #[rustfmt::skip]
    let table = [
        (Instance::Standby(Upstream::Wrong),          Rule::Granted,            Step::Promote { epoch }),
        (crashed(Crash::Unassessed),                  Rule::Crashed,            Step::AssessCrash { epoch }),
        (crashed(Crash::FailOver),                    Rule::CrashedReplaceable, Step::Release { epoch }),
        (crashed(Crash::RestartInPlace),              Rule::CrashedAlone,       Step::RestartInPlace { epoch }),
        (crashed(Crash::None),                        Rule::CannotServe,        Step::Release { epoch }),
        (Instance::Starting(Starting::InPlace),       Rule::Recovering,         Step::Stay),
        (Instance::Starting(Starting::InPlaceTooLong),Rule::RecoveringTooLong,  Step::Fence),
        (Instance::Primary(Health::SickReplaceable),  Rule::Sick,               Step::Fence),
        (Instance::Primary(Health::SickAlone),        Rule::SickAlone,          Step::Stay),
        (Instance::Empty,                             Rule::CannotServe,        Step::Release { epoch }),
        (Instance::Broken,                            Rule::CannotServe,        Step::Release { epoch }),
        (Instance::Working(Job::Promote),             Rule::Promoting,          Step::Stay),
    ];
    for (instance, rule, step) in table {
        let got = decide(&view(LeaseView::Ours, instance, None));
        assert_eq!(got, Decision { rule, step }, "{instance:?}");
    }
}

#[test]
fn a_node_that_lacks_acknowledged_commits_fetches_them_before_it_is_promoted_rule_96() {
    let epoch = Epoch(7);
    #[rustfmt::skip]
    let table = [
        (CatchUp::Done,   Rule::Granted,        Step::Promote { epoch }),
        (CatchUp::Needed, Rule::FastForwarding, Step::FastForward { epoch }),
        (CatchUp::Failed, Rule::CannotCatchUp,  Step::Release { epoch }),
    ];
    for (catch_up, rule, step) in table {
        let view = view(LeaseView::Ours, Instance::Standby(Upstream::Wrong), None);
        assert_eq!(decide(&View { catch_up, ..view }), Decision { rule, step }, "{catch_up:?}");
    }
}

#[test]
fn a_node_beside_a_primary_ends_up_as_its_standby() {
    let primary = n2();
    let from = || primary.clone();
    #[rustfmt::skip]
    let table = [
        (Instance::Standby(Upstream::Right),    Rule::Following,      Step::Stay),
        (Instance::Standby(Upstream::Wrong),    Rule::FollowNew,      Step::Follow { primary: from() }),
        (Instance::Standby(Upstream::Stuck),    Rule::NotStreaming,   Step::Compare { primary: from() }),
        (Instance::Standby(Upstream::Starved),  Rule::Starved,        Step::Refill { primary: from() }),
        (Instance::Standby(Upstream::Diverged), Rule::Diverged,       Step::StopStandby),
        (stopped(Relation::Uncompared),         Rule::Comparing,      Step::Compare { primary: from() }),
        (stopped(Relation::Ancestor),           Rule::Rejoining,      Step::StartStandby { primary: Some(from()) }),
        (stopped(Relation::Diverged),           Rule::Diverged,       Step::Rewind { primary: from() }),
        (stopped(Relation::CloneOnly),          Rule::Recloning,      Step::Clone { primary: from() }),
        (stopped(Relation::Manual),             Rule::DivergedManual, Step::Stay),
        (Instance::Empty,                       Rule::Recloning,      Step::Clone { primary: from() }),
        (Instance::HalfMade,                    Rule::Recloning,      Step::Clone { primary: from() }),
        (Instance::Broken,                      Rule::DataBroken,     Step::Stay),
    ];
    for (instance, rule, step) in table {
        let got = decide(&view(LeaseView::Theirs, instance, None));
        assert_eq!(got, Decision { rule, step }, "{instance:?}");
    }
}

#[test]
fn without_a_primary_a_node_makes_itself_electable_but_never_primary() {
    let over = Instance::Stopped(Stopped { grace: Grace::Over, ..STOPPED });
    #[rustfmt::skip]
    let table = [
        (Instance::Empty,                    Some(3), Rule::Bootstrapping,   Step::Bootstrap { attempt: 3 }),
        (Instance::Empty,                    None,    Rule::NoDatabase,      Step::Stay),
        (Instance::HalfMade,                 Some(3), Rule::Bootstrapping,   Step::Bootstrap { attempt: 3 }),
        (stopped(Relation::Uncompared),      Some(3), Rule::Bootstrapping,   Step::Bootstrap { attempt: 3 }),
        (stopped(Relation::Uncompared),      None,    Rule::AwaitingPrimary, Step::Stay),
        (over,                               None,    Rule::BecomeElectable, Step::StartStandby { primary: None }),
        (Instance::Standby(Upstream::Wrong), None,    Rule::LeaseVacant,     Step::Stay),
        (Instance::Broken,                   Some(3), Rule::DataBroken,      Step::Stay),
    ];
    for (instance, bootstrap, rule, step) in table {
        let got = decide(&view(LeaseView::Vacant, instance, bootstrap));
        assert_eq!(got, Decision { rule, step }, "{instance:?}");
    }
}

#[test]
fn over_the_whole_product_the_invariants_hold() {
    let mut seen = 0;
    for view in whole_product() {
        seen += 1;
        let Decision { rule, step } = decide(&view);
        let told = format!("{view:?} → {rule}, {step:?}");
        // I1: only a proven lease leads to accepting writes.
        if matches!(step, Step::Promote { .. } | Step::RestartInPlace { .. }) {
            assert_eq!(view.lease, LeaseView::Ours, "{told}");
        }
        // And only a node that has every acknowledged commit (rule 96).
        if matches!(step, Step::Promote { .. }) {
            assert_eq!(view.catch_up, CatchUp::Done, "{told}");
        }
        // I2: whatever may write without a proven lease is fenced; only a state older than the permit
        // leaves it to the guard.
        if may_write(view.instance) && !matches!(view.lease, LeaseView::Ours | LeaseView::Unknown) {
            assert_eq!(step, Step::Fence, "{told}");
        }
        // I3: the lease is given back only while nothing here can write.
        if matches!(step, Step::Release { .. }) {
            assert!(!may_write(view.instance), "{told}");
            assert!(!matches!(view.instance, Instance::Unseen | Instance::Stopping), "{told}");
            assert!(!matches!(view.lease, LeaseView::Vacant | LeaseView::Theirs), "{told}");
        }
        // I4: data is replaced only from the holder of the lease, and never while a server runs on it.
        if matches!(step, Step::Clone { .. } | Step::Rewind { .. }) {
            assert_eq!(view.lease, LeaseView::Theirs, "{told}");
            assert!(
                matches!(
                    view.instance,
                    Instance::Empty | Instance::HalfMade | Instance::Stopped(_)
                ),
                "{told}"
            );
        }
        // I5: a broken directory is never touched.
        if view.instance == Instance::Broken {
            assert!(matches!(step, Step::Stay | Step::Release { .. }), "{told}");
        }
        // I6: nothing unseen is acted upon.
        if view.instance == Instance::Unseen {
            assert_eq!(step, Step::Stay, "{told}");
        }
    }
    assert_eq!(seen, LEASES.len() * all_instances().len() * 2 * CATCH_UPS.len());
}

#[test]
fn every_rule_can_be_reached_and_has_a_text() {
    let reached: std::collections::BTreeSet<Rule> =
        whole_product().map(|view| decide(&view).rule).collect();
    let ordered = [Order::Paused, Order::Fenced, Order::Leave]
        .into_iter()
        .flat_map(|order| whole_product().map(move |view| decide(&View { order, ..view }).rule));
    let reached: std::collections::BTreeSet<Rule> = reached.into_iter().chain(ordered).collect();
    for rule in Rule::ALL {
        assert!(reached.contains(rule), "{rule} is never used");
        assert!(rule.why().ends_with('.'), "{rule}");
    }
}

fn ordered(order: Order, lease: LeaseView, instance: Instance) -> Decision {
    decide(&View { order, ..view(lease, instance, None) })
}

#[test]
fn in_a_pause_nothing_is_done_but_to_fence_whoever_writes_without_the_lease() {
    for lease in LEASES {
        for instance in all_instances() {
            let usual = decide(&view(lease, instance, None));
            let paused = ordered(Order::Paused, lease, instance);
            let stale = matches!(usual.rule, Rule::StalePrimary | Rule::NoProof);
            let expected =
                if stale && usual.step == Step::Fence { Step::Fence } else { Step::Stay };
            assert_eq!(paused.step, expected, "{lease:?} {instance:?}");
        }
    }
    let serving =
        ordered(Order::Paused, LeaseView::Ours, Instance::Primary(Health::SickReplaceable));
    assert_eq!(serving, Decision { rule: Rule::Serving, step: Step::Stay });
    let crashed = ordered(Order::Paused, LeaseView::Ours, crashed(Crash::FailOver));
    assert_eq!(crashed, Decision { rule: Rule::Paused, step: Step::Stay });
}

#[test]
fn a_fenced_or_leaving_node_stops_its_standby_and_starts_nothing() {
    let orders = [(Order::Fenced, Rule::FencedByOrder), (Order::Leave, Rule::Leaving)];
    for (order, rule) in orders {
        for lease in [LeaseView::Vacant, LeaseView::Theirs] {
            for instance in all_instances() {
                let step = ordered(order, lease, instance).step;
                let may = matches!(step, Step::Stay | Step::StopStandby | Step::Fence);
                assert!(may, "{lease:?} {instance:?}: {step:?}");
            }
            for upstream in UPSTREAMS {
                let decision = ordered(order, lease, Instance::Standby(upstream));
                assert_eq!(decision, Decision { rule, step: Step::StopStandby });
            }
        }
    }
}
