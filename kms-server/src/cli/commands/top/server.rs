//! A server that is watched: how it is asked.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use tokio::time::timeout;

use super::reading::{Reading, Ready};
use crate::cli::client::{Client, ClientError, Plain, Session};
use crate::cli::connection::Connection;
use crate::cli::failure::Failure;
use crate::cli::name::Call;

/// How long a server may take for a reading. One that hangs is shown as such, and soon.
const PATIENCE: Duration = Duration::from_secs(5);

/// All metrics, and those of KES alone, which any KES server has and a policy may allow without the others.
const PATHS: [&str; 2] = ["/metrics", "/v1/metrics"];

/// A server that is watched.
pub struct Server {
    /// Its name for people.
    pub name: String,
    way: Way,
}

enum Way {
    Api(Client),
    Plain(Plain),
}

/// A connection that is kept from one reading to the next.
#[derive(Default)]
pub struct Line<'a> {
    session: Option<Session<'a>>,
    /// The metrics that the server let us read last.
    path: Option<&'static str>,
}

impl Server {
    /// Finds the servers that the user names: by these words, or else by flag or environment.
    pub fn named(words: &[String], connection: &Connection, call: Call<'_>) -> Result<Vec<Self>, Failure> {
        let plain: Vec<_> = words.iter().map(|word| Plain::parse(word)).collect();
        let of_api: Vec<_> =
            words.iter().zip(&plain).filter(|(_, plain)| plain.is_none()).map(|(word, _)| &**word).collect();
        // Who only asks listeners for probes needs no API key.
        let clients = if of_api.is_empty() && !words.is_empty() {
            Vec::new()
        } else {
            connection.clients(&of_api, call)?
        };
        let mut clients = clients.into_iter().map(|(name, client)| Self { name, way: Way::Api(client) });
        let mut servers = Vec::new();
        for plain in plain {
            match plain {
                Some(plain) => {
                    let plain = plain?;
                    servers.push(Self { name: plain.to_string(), way: Way::Plain(plain) });
                }
                None => servers.extend(clients.next()),
            }
        }
        servers.extend(clients);
        Ok(servers)
    }

    /// Asks the server. The error says in one line why there is no answer.
    pub async fn read<'a>(&'a self, line: &mut Line<'a>) -> Result<Reading, String> {
        let asked = match &self.way {
            Way::Api(client) => timeout(PATIENCE, ask(client, line)).await,
            Way::Plain(plain) => timeout(PATIENCE, ask_plain(plain)).await,
        };
        let failed = match asked {
            Ok(Ok((text, ready))) => {
                let reading = Reading::parse(&text, ready, Instant::now());
                return reading
                    .ok_or_else(|| "there are no metrics of a key server in the answer".to_owned());
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        };
        // The connection may be at any point of an exchange.
        line.session = None;
        Err(failed)
    }
}

async fn ask<'a>(client: &'a Client, line: &mut Line<'a>) -> Result<(String, Ready), ClientError> {
    let is_new = line.session.is_none();
    match ask_on(client, line).await {
        // A server closes a connection that was idle, and each one when it stops.
        Err(ClientError::Answer(_) | ClientError::Handshake { .. }) if !is_new => {
            line.session = None;
            ask_on(client, line).await
        }
        done => done,
    }
}

async fn ask_on<'a>(client: &'a Client, line: &mut Line<'a>) -> Result<(String, Ready), ClientError> {
    if line.session.is_none() {
        line.session = Some(client.session().await?);
    }
    let Line { session: Some(session), path: known } = line else { return Err(nothing()) };
    let (mut refused, before) = (None, *known);
    for path in PATHS.into_iter().filter(|path| before.is_none_or(|before| before == *path)) {
        match session.send(Method::GET, path, None).await {
            Ok(text) => {
                *known = Some(path);
                let ready = ready(session.send(Method::GET, "/v1/ready", None).await)?;
                return Ok((String::from_utf8_lossy(&text).into_owned(), ready));
            }
            Err(error @ ClientError::Refused { status: 403 | 404, .. }) => {
                *known = None;
                refused.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(nothing))
}

fn nothing() -> ClientError {
    ClientError::Answer("no answer".to_owned())
}

/// Judges the answer of `/v1/ready`.
fn ready(answer: Result<impl AsRef<[u8]>, ClientError>) -> Result<Ready, ClientError> {
    match answer {
        Ok(body) if body.as_ref().is_empty() => Ok(Ready::Yes),
        Ok(body) => Ok(Ready::Degraded(message(body.as_ref()))),
        Err(ClientError::Refused { status: 400..=499, .. }) => Ok(Ready::Unknown),
        Err(ClientError::Refused { message, .. }) => Ok(Ready::No(message)),
        Err(error) => Err(error),
    }
}

fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        message: String,
    }
    let text = || String::from_utf8_lossy(body).trim().to_owned();
    serde_json::from_slice::<Body>(body).map_or_else(|_| text(), |body| body.message)
}

async fn ask_plain(plain: &Plain) -> Result<(String, Ready), ClientError> {
    let (status, text) = plain.get("/metrics").await?;
    if status != StatusCode::OK {
        return Err(ClientError::Answer(format!("{plain} answers with {status}")));
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let (status, why) = plain.get("/v1/ready").await?;
    let why = message(&why);
    Ok((
        text,
        match status {
            StatusCode::OK if why.is_empty() => Ready::Yes,
            StatusCode::OK => Ready::Degraded(why),
            status if status.is_client_error() => Ready::Unknown,
            status if why.is_empty() => Ready::No(status.to_string()),
            _ => Ready::No(why),
        },
    ))
}
