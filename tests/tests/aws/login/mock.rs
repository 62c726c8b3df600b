//! A stand-in for the endpoints from which a machine of AWS gets credentials.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

/// A mock of the endpoints on a machine of AWS. It answers by method and path, or not at all.
pub struct Mock {
    address: SocketAddr,
    pub seen: Arc<Mutex<Vec<String>>>,
}

impl Mock {
    pub fn start(answer: impl Fn(&str) -> Option<(u16, String)> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, answer) = (Arc::new(Mutex::new(Vec::new())), Arc::new(answer));
        let all = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, all) = (Arc::clone(&answer), Arc::clone(&all));
                std::thread::spawn(move || Self::respond(&stream.unwrap(), &*answer, &all));
            }
        });
        Self { address, seen }
    }

    fn respond(
        stream: &TcpStream,
        answer: &(impl Fn(&str) -> Option<(u16, String)> + ?Sized),
        seen: &Mutex<Vec<String>>,
    ) {
        let mut reader = BufReader::new(stream);
        let mut first = String::new();
        if reader.read_line(&mut first).unwrap_or(0) == 0 {
            return;
        }
        let mut length = 0;
        for line in reader.by_ref().lines().map_while(Result::ok) {
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let line = first.rsplit_once(' ').unwrap().0.to_owned();
        seen.lock().unwrap().push(line.clone());
        let Some((status, body)) = answer(&line) else {
            std::thread::sleep(Duration::from_secs(60));
            return;
        };
        let mut stream = stream;
        let _ = write!(
            stream,
            "HTTP/1.1 {status} x\r\ncontent-type: text/plain\r\nx-aws-ec2-metadata-token-ttl-seconds: 60\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Returns credentials in the form of an endpoint of a container.
pub fn credentials(valid: Duration) -> String {
    let end = Timestamp::now() + valid;
    json!({"AccessKeyId": "ASIAX", "SecretAccessKey": "s3cr3t", "Token": "t", "Expiration": end.to_string()})
        .to_string()
}
