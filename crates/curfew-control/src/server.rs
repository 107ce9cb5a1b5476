//! The server: its threads, its connections and how it stops. What a request means may not live here.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    os::fd::AsRawFd as _,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use curfew_model::{Event, EventKind};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::{Semaphore, mpsc, watch},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    Limits, Parts, Settings, StartError,
    app::{App, Phase},
    guard::Guard,
    outcomes::Outcomes,
    places::{Place, Places},
    routes,
    segments::Segments,
    tls, token,
    watchers::Hub,
};

/// What accepting says where no descriptor or memory is left: EMFILE, ENFILE, ENOBUFS, ENOMEM.
const EXHAUSTED: [i32; 4] = [24, 23, 105, 12];

/// Threads that never block.
const WORKERS: usize = 2;
/// Threads that may: as many requests read the store or wait for enforcers at once.
const BLOCKING: usize = 256;
/// Of these, for those who only look.
const LOOKING: usize = 16;
/// And for those who change something that ends no session at once.
const CHANGING: usize = 64;
/// After the system had no more file descriptors, the next connection is taken this much later.
const PAUSE: Duration = Duration::from_millis(50);
/// Without an answer from the other end for so long, a connection is gone.
const DEAD: Duration = Duration::from_secs(30);
/// How long the first record may take.
const RECORD: Duration = Duration::from_secs(10);

/// A running server. Dropping it stops it at once.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    phase: watch::Sender<Phase>,
    work: Option<mpsc::Sender<()>>,
    done: mpsc::Receiver<()>,
    runtime: Option<Runtime>,
}

impl Server {
    /// Makes the first token where there is none, listens, and serves on threads of its own.
    ///
    /// # Errors
    /// [`StartError`]; nothing listens then.
    pub fn start(settings: Settings, parts: Parts) -> Result<Self, StartError> {
        let loopback = settings.listen.ip().to_canonical().is_loopback();
        if !loopback && settings.tls.is_none() {
            return Err(StartError::TlsRequired(settings.listen));
        }
        let acceptor = settings.tls.as_ref().map(tls::acceptor).transpose()?;
        let listen = |source| StartError::Listen {
            address: settings.listen,
            source,
        };
        let listener = StdListener::bind(settings.listen).map_err(listen)?;
        listener.set_nonblocking(true).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        first_token(&settings, &parts)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING)
            .thread_name("control")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        let (phase, seen) = watch::channel(Phase::Serving);
        let (work, done) = mpsc::channel(1);
        let app = App {
            audit_dir: settings.audit_dir,
            guard: Guard::new(address, &settings.limits),
            hub: Hub::start(&*parts.bus).map_err(StartError::Threads)?,
            outcomes: Mutex::new(Outcomes::default()),
            segments: Segments::default(),
            looking: Arc::new(Semaphore::new(LOOKING)),
            changing: Arc::new(Semaphore::new(CHANGING)),
            forgetting: Arc::new(Semaphore::new(1)),
            verifying: Arc::new(Semaphore::new(1)),
            validating: Arc::new(Semaphore::new(1)),
            applying: Semaphore::new(1),
            phase: seen,
            work: work.downgrade(),
            parts,
        };
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(listen)?
        };
        let connections = Connections::new(Arc::new(app), acceptor, settings.limits);
        runtime.spawn(accept(listener, connections, work.clone()));
        Ok(Self {
            address,
            phase,
            work: Some(work),
            done,
            runtime: Some(runtime),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says at `/readyz` from now on that the process stops. Everything is served as before.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Takes no more connections, lets what runs come to its end for `within`, and ends the rest. Gives whether
    /// everything came to its end. It may not be called on one of the server's own threads.
    pub fn stop(mut self, within: Duration) -> bool {
        self.phase.send_replace(Phase::Stopping);
        self.work = None;
        let Some(runtime) = self.runtime.take() else {
            return true;
        };
        let done = &mut self.done;
        let whole = runtime
            .block_on(async { tokio::time::timeout(within, done.recv()).await })
            .is_ok();
        // When all work is done this takes no time, and nothing of the server holds its parts any more.
        runtime.shutdown_timeout(if whole { within } else { Duration::ZERO });
        whole
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Makes the first token where there is none. Its record comes first: none is ever kept without, and where one was not
/// kept after all, the next start makes another, with a record of its own.
fn first_token(settings: &Settings, parts: &Parts) -> Result<(), StartError> {
    let state = parts.store.read();
    if !state.tokens.is_empty() {
        return Ok(());
    }
    let now = parts.clock.now().wall;
    let path = settings.data_dir.join(token::FILE);
    let event = Event {
        cause: Some(format!("the first token is made: {}", path.display())),
        ..Event::new(EventKind::TokenChanged, now, state.revision)
    };
    let not_on_record = |detail: String| StartError::NotOnRecord(detail);
    let ticket = parts
        .journal
        .append(&curfew_audit::Entry::new(event).with("by", "curfew"))
        .map_err(|error| not_on_record(error.to_string()))?;
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let then = Box::new(move |result| {
        // Nobody waits any more once the time is up.
        let _ = tell.send(result);
    });
    parts.journal.when_durable(ticket, then);
    match told.recv_timeout(RECORD) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(not_on_record(error.to_string())),
        Err(_) => {
            return Err(not_on_record(
                "it did not reach the disk in time".to_owned(),
            ));
        }
    }
    Ok(token::make_first(&*parts.store, &settings.data_dir, now)?)
}

/// What every connection shares.
struct Connections {
    app: Arc<App>,
    router: Router,
    tls: Option<TlsAcceptor>,
    receive: Duration,
    descriptors: u64,
    places: Arc<Places>,
}

impl Connections {
    fn new(app: Arc<App>, tls: Option<TlsAcceptor>, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            router: routes::router(&app),
            app,
            tls,
            receive: limits.receive,
            descriptors: limits.descriptors,
            places: Places::new(limits.connections),
        })
    }
}

async fn accept(listener: TcpListener, connections: Arc<Connections>, work: mpsc::Sender<()>) {
    let mut phase = connections.app.phase.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase == Phase::Stopping) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Over the limit the connection is closed: who waits in the backlog would look like a slow server.
                let descriptor = u64::try_from(stream.as_raw_fd());
                let no_more = descriptor.is_ok_and(|number| number >= connections.descriptors);
                if let Some(place) = connections.places.take(peer.ip(), no_more) {
                    let connections = Arc::clone(&connections);
                    tokio::spawn(connection(stream, place, connections, work.clone()));
                }
            }
            Err(error) => {
                let code = error.raw_os_error();
                if code.is_some_and(|code| EXHAUSTED.contains(&code)) {
                    connections.places.give_up();
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    place: Place,
    connections: Arc<Connections>,
    work: mpsc::Sender<()>,
) {
    let place = Arc::new(place);
    // Without them the connection only ends later when the other end vanishes.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(DEAD));
    let serving = async {
        match &connections.tls {
            None => serve(stream, &place, &connections).await,
            Some(tls) => {
                let handshake = tokio::time::timeout(connections.receive, tls.accept(stream));
                if let Ok(Ok(stream)) = handshake.await {
                    serve(stream, &place, &connections).await;
                }
            }
        }
    };
    tokio::select! {
        () = serving => {}
        () = place.given_up() => {}
    }
    drop(work);
}

async fn serve<I: AsyncRead + AsyncWrite + Unpin>(
    io: I,
    place: &Arc<Place>,
    connections: &Connections,
) {
    let router = TowerToHyperService::new(connections.router.clone());
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(place));
        hyper::service::Service::call(&router, request)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(connections.receive)
        .serve_connection(TokioIo::new(io), service);
    let mut serving = std::pin::pin!(serving);
    let mut phase = connections.app.phase.clone();
    // What the client did wrong on the wire is told to it by hyper; it is not ours to report.
    tokio::select! {
        biased;
        _ = serving.as_mut() => return,
        _ = phase.wait_for(|phase| *phase == Phase::Stopping) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}
