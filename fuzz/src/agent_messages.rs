//! What a client and an agent say to each other: messages by themselves, and a whole conversation with an agent.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::OnceLock,
};

use kernlet_accel_agent::{
    Agent, Limits,
    wire::{Call, Head, Message, Reply, VERSION},
};
use zerocopy::IntoBytes;

use crate::{cursor::Cursor, touch::Touch};

/// Whatever bytes are read as, they are a message of those very bytes, or none.
pub fn agent_messages(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let kind = u16::from(cursor.u8());
    let body = &data[data.len().min(1)..];
    if let Ok(message) = Message::parse(kind, body) {
        assert_eq!(message.body(), body);
    }
    if let Ok(call) = Call::parse(body) {
        assert_eq!(call.body(), body);
        assert!(call.args.len() <= 32);
    }
    if let Ok(reply) = Reply::parse(body) {
        assert!(reply.args.len() <= 32 && reply.message.len() <= 3 * 1024);
    }
}

fn agent() -> &'static Agent {
    static AGENT: OnceLock<Agent> = OnceLock::new();
    AGENT.get_or_init(|| {
        let limits = Limits { workers: 1, bytes: 1 << 20, resources: 1 << 20, ..Limits::default() };
        Agent::start(vec![std::sync::Arc::new(Touch)], limits, Box::new(|_| {})).expect("threads")
    })
}

/// A client that says hello, opens a session, and then whatever there is, costs the agent its own connection at most.
pub fn agent_conversation(data: &[u8]) {
    let (mut client, server) = UnixStream::pair().expect("sockets");
    agent().serve(server).expect("a thread");
    let frame = |message: &Message| {
        let body = message.body();
        [Head::new(message.kind(), 1, body.len()).as_bytes(), &body].concat()
    };
    let hello = Message::Hello { oldest: VERSION, newest: VERSION, features: 0, memory: 0, name: String::new() };
    let open = Message::Open { resources: 0, concurrency: 0, bytes: 0, hint: String::new() };
    let mut words = [frame(&hello), frame(&open)].concat();
    words.extend_from_slice(data);
    let mut said = client.try_clone().expect("a descriptor");
    let speak = std::thread::spawn(move || {
        // The agent may have had enough before the end.
        let _ = said.write_all(&words);
        let _ = said.shutdown(Shutdown::Write);
    });
    let mut heard = Vec::new();
    let _ = client.read_to_end(&mut heard);
    speak.join().expect("no panic");
    assert!(!heard.is_empty(), "the agent says welcome");
}
