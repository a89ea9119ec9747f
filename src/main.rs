//! spike
use nuncio::config::*;
use nuncio::names::Name;
use nuncio::proxy::listener::*;
use nuncio::proxy::worker::*;
use std::sync::{Arc, LazyLock};
use std::time::Instant;
#[global_allocator]
static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let mut c = RoutingConfig::default();
    let web = Name::literal("web");
    c.listeners.insert(web.clone(), Listener::http(args[1].parse().unwrap()));
    if args.len() > 3 {
        let mut l = Listener::http(args[3].parse().unwrap());
        l.tls = Some(Default::default());
        c.listeners.insert(Name::literal("secure"), l);
        let k = rcgen::generate_simple_self_signed(vec!["bench.test".to_string()]).unwrap();
        c.certificates.insert(
            Name::literal("c"),
            Certificate { cert: Pem::Text(k.cert.pem()), key: Pem::Text(k.signing_key.serialize_pem()), default: true },
        );
    }
    c.upstreams.insert(web.clone(), Upstream::of([args[2].parse().unwrap()]));
    c.routes.insert(web.clone(), Route::to("PathPrefix(\"/\")".parse().unwrap(), web.clone()));
    let meter = nuncio::metrics::Meter::new(Arc::new(nuncio::metrics::Registry::default()));
    let ctx = nuncio::routing::compile::Context {
        meter: meter.clone(),
        sticky_keys: vec![],
        crypto: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        ticketer: rustls::crypto::aws_lc_rs::Ticketer::new().unwrap(),
        system_roots: LazyLock::new(|| Arc::new(rustls::RootCertStore::empty())),
    };
    let t = nuncio::routing::compile(&Snapshot::of_program(c, &web, Instant::now()), &Default::default(), &ctx);
    println!("{:?}", t.problems);
    let t = Arc::new(t);
    let w = WorkerThread::start(
        0,
        WorkerContext { table: Arc::new(arc_swap::ArcSwap::new(t.clone())), access_log: None, unrouted: metrics::Counter::noop() },
        1,
    )
    .unwrap();
    for (name, l) in &t.listeners {
        let s = bind(l.settings.address, 1).unwrap().pop().unwrap();
        w.tell(Command::Listen {
            shared: Arc::new(ListenerShared {
                name: name.clone(),
                protocol: l.settings.protocol,
                open: Default::default(),
                accepted: metrics::Counter::noop(),
                open_gauge: metrics::Gauge::noop(),
            }),
            settings: l.clone(),
            socket: s,
        });
    }
    w.join();
}
