//! The thread that answers HTTP: a few connections at a time ([`crowd`]), each with little time, one request on each.

mod crowd;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, io, net::TcpListener as StdListener, rc::Rc, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Mutex, mpsc, oneshot},
    task::LocalSet,
    time::{Instant, timeout},
};

use self::crowd::{Crowd, Phase};
use super::{Asker, Pulse};
use crate::{
    host::procfs,
    report::{
        self,
        metrics::{Format, Page},
    },
};

/// How long a request may take to arrive.
const REQUEST: Duration = Duration::from_secs(5);
/// How long a connection may last.
const CONNECTION: Duration = Duration::from_secs(30);
/// The most bytes of a request's head.
const HEAD: usize = 16 << 10;
/// The least time between two samples.
const PAUSE: Duration = Duration::from_millis(100);
/// No answer is older than that, whatever the loop's time.
const OLDEST: Duration = Duration::from_secs(5);
/// The loop reads accounts for metrics at most for one part in so many of its time.
const SHARE: u32 = 10;
/// How long nobody is accepted after one could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Answer = Response<Full<Bytes>>;

/// Starts the thread; it ends when the loop's end of `asks` is gone. `patience`: how long the loop may be silent.
pub(super) fn start(
    listener: StdListener,
    asks: mpsc::Sender<Asker>,
    alive: Arc<Pulse>,
    patience: Duration,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serve = move || {
        let served = LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::from_std(listener)?;
            let desk = Desk { asks, alive, patience, last: Mutex::new(None) };
            serve(&listener, Rc::new(desk)).await;
            io::Result::Ok(())
        });
        if let Err(error) = served {
            tracing::warn!("no metrics: {error}");
        }
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name("metrics".to_owned()).spawn(serve)?;
    Ok(())
}

/// Until the loop is gone.
async fn serve(listener: &TcpListener, desk: Rc<Desk>) {
    let mut crowd = Crowd::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = desk.asks.closed() => return,
            () = crowd.departure() => continue,
            accepted = listener.accept(), if crowd.has_room() => accepted,
            // Nobody can be shown out: who comes now waits until somebody can.
            () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
        };
        match accepted {
            Ok((stream, _)) => crowd.admit(|phase| converse(stream, Rc::clone(&desk), phase)),
            Err(error) => {
                tracing::debug!("metrics: a connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        // What it has sent is read before the next ones are let in, who might push it out.
        tokio::task::yield_now().await;
    }
}

/// One request, one answer.
async fn converse(stream: TcpStream, desk: Rc<Desk>, phase: Phase) {
    let service = service_fn(move |request| {
        let (desk, phase) = (Rc::clone(&desk), phase.clone());
        async move {
            phase.asked();
            let answer = desk.answer(&request).await;
            phase.answered();
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("metrics: {error}"),
        Err(_) => tracing::debug!("metrics: a client took too long"),
    }
}

/// Who answers.
struct Desk {
    asks: mpsc::Sender<Asker>,
    alive: Arc<Pulse>,
    patience: Duration,
    /// One asks at a time; the others get what it got.
    last: Mutex<Option<Taken>>,
}

/// A sample, and what has been made of it.
struct Taken {
    page: Page,
    took: Duration,
    /// The text in each format, once somebody wanted it.
    texts: [Option<Bytes>; Format::ALL.len()],
    /// When all that was ready.
    at: Instant,
}

impl Desk {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = words(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match request.uri().path() {
            "/metrics" => self.metrics(request).await,
            "/healthz" => self.health(),
            "/" => words(StatusCode::OK, "numa-agent: /metrics, /healthz\n"),
            _ => words(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
        }
    }

    async fn metrics(&self, request: &Request<Incoming>) -> Answer {
        let accept = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let format = Format::of(&accept.collect::<Vec<_>>().join(","));
        match timeout(self.patience, self.text(format)).await {
            Ok(Some(text)) => plain(StatusCode::OK, format.content_type(), text),
            _ => words(StatusCode::SERVICE_UNAVAILABLE, "the agent's event loop does not answer\n"),
        }
    }

    /// What the loop knows now, or knew a moment ago; `None`: it is gone. A sample becomes text once, however many want it.
    async fn text(&self, format: Format) -> Option<Bytes> {
        let mut last = self.last.lock().await;
        if last.as_ref().is_none_or(|taken| taken.at.elapsed() >= (SHARE * taken.took).clamp(PAUSE, OLDEST)) {
            *last = Some(self.sample().await?);
        }
        let taken = last.as_mut()?;
        let text = &mut taken.texts[format as usize];
        if text.is_none() {
            *text = Some(report::metrics::text(taken.page.clone(), format).into());
        }
        text.clone()
    }

    /// What the loop knows now; `None`: it is gone.
    async fn sample(&self) -> Option<Taken> {
        let (asker, told) = oneshot::channel();
        let began = Instant::now();
        self.asks.send(asker).await.ok()?;
        let sample = Arc::new(told.await.ok()?);
        let took = began.elapsed();
        let page = Page { sample, sample_seconds: took.as_secs_f64(), usage: procfs::own_metrics() };
        Some(Taken { page, took, texts: Default::default(), at: Instant::now() })
    }

    fn health(&self) -> Answer {
        let silent = self.alive.since();
        if silent < self.patience {
            return words(StatusCode::OK, "ok\n");
        }
        let text = format!("the agent's event loop has been silent for {} s\n", silent.as_secs());
        plain(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", text.into())
    }
}

fn words(status: StatusCode, text: &'static str) -> Answer {
    plain(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn plain(status: StatusCode, content_type: &'static str, text: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}
