//! One worker: a thread with a single-threaded runtime that serves its share of the connections.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::connection::Arrival;
use super::pace::{Pace, Sweep};
use super::station::Station;
use super::{Accepted, Phase, connection};

/// How often connections are looked at while relay parts from them.
const PARTING_SWEEP: Duration = Duration::from_millis(50);

/// Serves connections until `accepted` closes and every connection has ended. `build` runs inside the
/// worker's own runtime. Blocks the thread.
///
/// # Errors
/// If the runtime cannot be made.
pub fn run(
    build: impl FnOnce() -> Station,
    accepted: mpsc::UnboundedReceiver<Accepted>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, serve(build, accepted));
    Ok(())
}

async fn serve(build: impl FnOnce() -> Station, mut accepted: mpsc::UnboundedReceiver<Accepted>) {
    let station = Rc::new(build());
    let sweep = Rc::new(Sweep::default());
    let sweeper = tokio::task::spawn_local(sweep_forever(sweep.clone(), station.clone()));
    let closer = tokio::task::spawn_local(close_in_time(sweep.clone(), station.clone()));
    let open = Rc::new(());
    while let Some(Accepted { raw, tls, entrance, _place: place }) = accepted.recv().await {
        let pace = Pace::fresh(station.backlog.clone());
        sweep.watch(&pace);
        let (station, open) = (station.clone(), open.clone());
        tokio::task::spawn_local(async move {
            connection::serve(station.clone(), Arrival { raw, tls, entrance }, pace).await;
            station.metrics.connections().dec();
            drop((place, open));
        });
    }
    // The acceptor is gone: what is still open may end by itself; `app` bounds how long.
    let ended = async {
        while Rc::strong_count(&open) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = ended => {}
        () = station.draining.reaches(Phase::Over) => {}
    }
    sweeper.abort();
    closer.abort();
}

async fn close_in_time(sweep: Rc<Sweep>, station: Rc<Station>) {
    station.draining.reaches(Phase::Parting).await;
    sweep.part();
    let rests_are_over = async {
        loop {
            tokio::time::sleep(PARTING_SWEEP).await;
            sweep.sweep(&station.limits);
        }
    };
    tokio::select! {
        () = rests_are_over => {}
        () = station.draining.reaches(Phase::Closing) => {}
    }
    sweep.close();
}

async fn sweep_forever(sweep: Rc<Sweep>, station: Rc<Station>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        sweep.sweep(&station.limits);
    }
}
