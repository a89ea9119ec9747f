//! Load and endpoint of the scenarios over UDP. Built by compare.py with `rustc`; the standard library is enough.
//!
//! `udp echo PORT…` sends each datagram back to who sent it. `udp load ADDRESS SECONDS CLIENTS BYTES` is so many clients with a socket of
//! their own, each of which sends its next datagram when it has the answer to the last one. At the end it says
//! `@@ exchanges microseconds p99-microseconds lost wrong`.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// What is not answered by then is lost.
const PATIENCE: Duration = Duration::from_secs(1);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["echo", ports @ ..] => echo(ports),
        ["load", address, seconds, clients, bytes] => {
            load(address.parse().expect("an address"), number(seconds), number(clients), number(bytes) as usize)
        }
        _ => panic!("usage: udp echo PORT… | udp load ADDRESS SECONDS CLIENTS BYTES"),
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn echo(ports: &[&str]) {
    let serve = |port: &&str| {
        let socket = UdpSocket::bind(("127.0.0.1", number(port) as u16)).expect("the port is free");
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            loop {
                // An error is of a peer that is gone.
                if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], peer);
                }
            }
        })
    };
    let threads: Vec<_> = ports.iter().map(serve).collect();
    println!("ready");
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

/// What one client has seen.
#[derive(Default)]
struct Seen {
    /// Microseconds of each exchange.
    took: Vec<u32>,
    lost: u64,
    wrong: u64,
}

fn load(address: SocketAddr, seconds: u64, clients: u64, bytes: usize) {
    let started = Instant::now();
    let until = started + Duration::from_secs(seconds);
    let threads: Vec<_> = (0..clients).map(|number| std::thread::spawn(move || client(address, until, number, bytes))).collect();
    let mut all = Seen::default();
    for thread in threads {
        let seen = thread.join().expect("it does not panic");
        all.took.extend(seen.took);
        all.lost += seen.lost;
        all.wrong += seen.wrong;
    }
    let duration = started.elapsed().as_micros();
    all.took.sort_unstable();
    let p99 = all.took.get(all.took.len() * 99 / 100).copied().unwrap_or_default();
    println!("@@ {} {duration} {p99} {} {}", all.took.len(), all.lost, all.wrong);
}

fn client(address: SocketAddr, until: Instant, number: u64, bytes: usize) -> Seen {
    let socket = UdpSocket::bind(("127.0.0.1", 0)).expect("a port is free");
    socket.connect(address).expect("it is an address of this machine");
    socket.set_read_timeout(Some(PATIENCE)).expect("more than zero");
    let (mut seen, mut datagram, mut answer) = (Seen::default(), vec![b'n'; bytes.max(16)], [0; 65_536]);
    let mut count = 0_u64;
    while Instant::now() < until {
        count += 1;
        datagram[..8].copy_from_slice(&number.to_le_bytes());
        datagram[8..16].copy_from_slice(&count.to_le_bytes());
        let sent = Instant::now();
        if socket.send(&datagram).is_err() {
            seen.lost += 1;
            continue;
        }
        match socket.recv(&mut answer) {
            Ok(length) if answer[..length] == datagram[..] => seen.took.push(sent.elapsed().as_micros() as u32),
            Ok(_) => seen.wrong += 1,
            Err(_) => seen.lost += 1,
        }
    }
    seen
}
