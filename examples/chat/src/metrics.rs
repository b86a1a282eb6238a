//! The metrics recorder for Prometheus.

use std::thread;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of the histogram's buckets, in seconds.
const CALLS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// How often samples are put into the buckets.
const UPKEEP: Duration = Duration::from_secs(5);

/// Installs the recorder, before anything registers a metric.
pub(crate) fn recorder() -> anyhow::Result<PrometheusHandle> {
    let name = Matcher::Full("strait_store_call_seconds".to_owned());
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(name, &CALLS)?
        .install_recorder()
        .context("the metrics recorder could not be installed")?;
    // Without it samples would wait for the next scrape, which may never come.
    let upkeep = recorder.clone();
    thread::Builder::new().name("metrics".to_owned()).spawn(move || {
        loop {
            thread::sleep(UPKEEP);
            upkeep.run_upkeep();
        }
    })?;
    Ok(recorder)
}
