//! A name server that answers by script: what a test says for a name and type, by UDP and TCP on one port.
//!
//! Messages are written by hand (RFC 1035 section 4), so that nothing is shared with the client that is tested.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;

pub const A: u16 = 1;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;

/// The longest answer by UDP, whatever the client offers: many servers in clusters know no EDNS(0).
const UDP_BYTES_MAX: usize = 512;

/// What is said of a name and type.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Records of this data, with this TTL.
    Records(Vec<Vec<u8>>, u32),
    /// No such name.
    NxDomain,
    /// The name is there, but has no records of this type.
    Empty,
    /// The server cannot say.
    ServFail,
    /// It does not want to.
    Refused,
    /// No answer at all.
    Silence,
}

/// What befalls answers to all questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trouble {
    #[default]
    None,
    /// The server cannot say, whatever it is asked.
    ServFail,
    /// It does not want to.
    Refused,
    /// No answer at all.
    Silence,
    /// By UDP they are cut off, and by TCP they end halfway.
    CutShort,
    /// They have the number of another question.
    WrongNumber,
    /// They are those to another question, with the number of this one.
    WrongName,
    /// They are no messages.
    Garbage,
}

/// The server. Ends when it is dropped.
pub struct NameServer {
    pub address: SocketAddr,
    state: Arc<State>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    script: Mutex<HashMap<(String, u16), Reply>>,
    trouble: Mutex<Trouble>,
    delay: Mutex<Duration>,
    udp: AtomicUsize,
    tcp: AtomicUsize,
}

impl NameServer {
    pub async fn start() -> Self {
        let mut server = Self { address: ([127, 0, 0, 1], 0).into(), state: Arc::default(), tasks: Vec::new() };
        server.run().await;
        server
    }

    /// Listens, again if it was stopped: at the same address.
    pub async fn run(&mut self) {
        // A port that is free for both. That of before is once the tasks of before have ended.
        let (udp, tcp) = loop {
            if let Ok(udp) = UdpSocket::bind(self.address).await
                && let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await
            {
                break (Arc::new(udp), tcp);
            }
            tokio::task::yield_now().await;
        };
        self.address = udp.local_addr().unwrap();
        let state = &self.state;
        self.tasks = vec![tokio::spawn(serve_udp(udp, state.clone())), tokio::spawn(serve_tcp(tcp, state.clone()))];
    }

    /// Closes all connections, and does not listen any more. What it says of names is kept.
    pub fn stop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// Lets this befall all answers.
    pub fn trouble(&self, trouble: Trouble) {
        *self.state.trouble.lock().unwrap() = trouble;
    }

    /// Says `reply` of `name` (without a dot at its end) from now on.
    pub fn say(&self, name: &str, kind: u16, reply: Reply) {
        self.state.script.lock().unwrap().insert((name.to_string(), kind), reply);
    }

    /// The same for addresses of both kinds.
    pub fn say_both(&self, name: &str, reply: &Reply) {
        self.say(name, A, reply.clone());
        self.say(name, AAAA, reply.clone());
    }

    /// Says that `name` has these addresses.
    pub fn addresses(&self, name: &str, addresses: &[&str], ttl: u32) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|it| it.parse().unwrap()).collect();
        let of = |want_v4: bool| {
            let data: Vec<Vec<u8>> = addresses.iter().filter(|it| it.is_ipv4() == want_v4).map(octets).collect();
            if data.is_empty() { Reply::Empty } else { Reply::Records(data, ttl) }
        };
        self.say(name, A, of(true));
        self.say(name, AAAA, of(false));
    }

    /// Says that the service `name` is at these places: priority, weight, port, target.
    pub fn services(&self, name: &str, places: &[(u16, u16, u16, &str)], ttl: u32) {
        let data = places.iter().map(|(priority, weight, port, target)| {
            let mut data = [priority.to_be_bytes(), weight.to_be_bytes(), port.to_be_bytes()].concat();
            for label in target.split('.').filter(|label| !label.is_empty()) {
                data.push(label.len() as u8);
                data.extend(label.as_bytes());
            }
            data.push(0);
            data
        });
        self.say(name, SRV, Reply::Records(data.collect(), ttl));
    }

    /// Waits this long before each answer.
    pub fn delay(&self, delay: Duration) {
        *self.state.delay.lock().unwrap() = delay;
    }

    /// Questions so far: by UDP, by TCP.
    pub fn asked(&self) -> (usize, usize) {
        (self.state.udp.load(Ordering::SeqCst), self.state.tcp.load(Ordering::SeqCst))
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn octets(ip: &IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, state: Arc<State>) {
    let mut answers = tokio::task::JoinSet::new();
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { return };
        state.udp.fetch_add(1, Ordering::SeqCst);
        let (query, socket, state) = (buffer[..length].to_vec(), socket.clone(), state.clone());
        answers.spawn(async move {
            let Some(mut answer) = state.answer(&query).await else { return };
            if answer.len() > UDP_BYTES_MAX || *state.trouble.lock().unwrap() == Trouble::CutShort {
                answer = message(&query, 0x0200, &[], 0);
            }
            let _ = socket.send_to(&answer, peer).await;
        });
        while answers.try_join_next().is_some() {}
    }
}

async fn serve_tcp(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        let state = state.clone();
        connections.spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut query = vec![0; length.into()];
                if stream.read_exact(&mut query).await.is_err() {
                    return;
                }
                state.tcp.fetch_add(1, Ordering::SeqCst);
                let Some(answer) = state.answer(&query).await else { continue };
                let framed = [&(answer.len() as u16).to_be_bytes(), &answer[..]].concat();
                let is_cut = *state.trouble.lock().unwrap() == Trouble::CutShort;
                let end = if is_cut { framed.len() / 2 } else { framed.len() };
                if stream.write_all(&framed[..end]).await.is_err() || is_cut {
                    return;
                }
            }
        });
    }
}

impl State {
    async fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let delay = *self.delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        let (name, kind, _) = question(query);
        let reply = self.script.lock().unwrap().get(&(name, kind)).cloned().unwrap_or(Reply::NxDomain);
        let reply = match *self.trouble.lock().unwrap() {
            Trouble::ServFail => Reply::ServFail,
            Trouble::Refused => Reply::Refused,
            Trouble::Silence => Reply::Silence,
            Trouble::Garbage => return Some(vec![0xff; 7]),
            Trouble::WrongNumber => {
                let mut query = query.to_vec();
                query[0] ^= 0x55;
                return Some(message(&query, 0, &[], 0));
            }
            Trouble::WrongName => {
                let mut query = query.to_vec();
                // The first letter of the name.
                query[13] = if query[13] == b'x' { b'y' } else { b'x' };
                return Some(message(&query, 3, &[], 0));
            }
            Trouble::None | Trouble::CutShort => reply,
        };
        Some(match reply {
            Reply::Records(data, ttl) => message(query, 0, &data, ttl),
            Reply::Empty => message(query, 0, &[], 0),
            Reply::NxDomain => message(query, 3, &[], 0),
            Reply::ServFail => message(query, 2, &[], 0),
            Reply::Refused => message(query, 5, &[], 0),
            Reply::Silence => return None,
        })
    }
}

/// Name and type that are asked for, and where the question ends.
fn question(query: &[u8]) -> (String, u16, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), u16::from_be_bytes([query[at + 1], query[at + 2]]), at + 5)
}

/// The answer to `query`, with these flags and response code beside those that are always set.
fn message(query: &[u8], flags: u16, records: &[Vec<u8>], ttl: u32) -> Vec<u8> {
    let (_, kind, end) = question(query);
    let mut answer = query[..2].to_vec();
    answer.extend((0x8180 | flags).to_be_bytes());
    answer.extend([0, 1]);
    answer.extend((records.len() as u16).to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(&query[12..end]);
    for data in records {
        // The name: that of the question.
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend(data);
    }
    answer
}
