//! Families of metrics as they are encoded, and the labels that they have in common. It knows no metric.

use std::fmt;

use prometheus_client::{
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
    },
    metrics::MetricType,
    registry::Unit,
};

use crate::{
    core::metrics::{Place, steps::Steps},
    report::escape,
};

/// The group of those that have none.
const BACKGROUND: &str = "background";

/// Families of metrics, one after the other.
pub(super) struct Families<'a>(pub(super) DescriptorEncoder<'a>);

impl Families<'_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        of: MetricType,
        rows: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        rows(self.0.encode_descriptor(name, help, unit, of)?)
    }

    pub(super) fn counter(&mut self, name: &str, help: &str, value: &impl EncodeCounterValue) -> fmt::Result {
        self.family(name, help, None, MetricType::Counter, |mut one| {
            one.encode_counter::<NoLabelSet, _, f64>(value, None)
        })
    }

    pub(super) fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.family(name, help, None, MetricType::Counter, |mut family| {
            rows.into_iter().try_for_each(|(labels, value)| {
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
            })
        })
    }

    /// Of nanoseconds.
    pub(super) fn seconds<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.family(name, help, Some(&Unit::Seconds), MetricType::Counter, |mut family| {
            rows.into_iter().try_for_each(|(labels, ns)| {
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&seconds(ns), None)
            })
        })
    }

    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        value: &impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.family(name, help, unit.as_ref(), MetricType::Gauge, |mut one| one.encode_gauge(value))
    }

    pub(super) fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        self.family(name, help, None, MetricType::Gauge, |mut family| {
            rows.into_iter()
                .try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
        })
    }

    pub(super) fn histograms<'a, L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, &'a Steps)>,
    ) -> fmt::Result {
        self.family(name, help, Some(&Unit::Seconds), MetricType::Histogram, |mut family| {
            rows.into_iter().try_for_each(|(labels, steps)| {
                let bound = |end: Option<u64>| end.map_or(f64::INFINITY, seconds);
                let buckets: Vec<(f64, u64)> = steps.iter().map(|(end, count)| (bound(end), count)).collect();
                let mut one = family.encode_family(&labels)?;
                one.encode_histogram::<NoLabelSet>(seconds(steps.sum_ns()), steps.count(), &buckets, None)
            })
        })
    }
}

pub(super) fn group_of(group: &Option<String>) -> String {
    group.as_deref().map_or_else(|| BACKGROUND.to_owned(), escape::text)
}

/// Labels of a group and a role.
pub(super) fn place((group, role): &Place) -> [(&'static str, String); 2] {
    [("group", group_of(group)), ("role", role.name().to_owned())]
}

pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
