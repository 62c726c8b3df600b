//! The places that credentials may come from, and the state of each on this machine.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::time::Duration;

use aws_config::imds;
use aws_config::imds::client::error::ImdsError;

/// The longest wait for instance metadata to say whether there is a role.
const INSTANCE_TIMEOUT: Duration = Duration::from_secs(1);
/// The advice if nothing was found anywhere.
const ADVICE: &str = "give the instance, the task or the pod a role, or set the variables or a profile";

/// The places in the order in which the SDK asks them.
pub struct Sources {
    environment: String,
    profile: Profile,
    token: Option<Token>,
    container: Option<String>,
}

struct Profile {
    name: String,
    /// The state of each of its files, in words.
    files: Vec<String>,
    has_role: bool,
}

struct Token {
    path: String,
    /// Why it cannot be read; `None` if it can.
    why: Option<String>,
    has_role: bool,
}

impl Sources {
    /// Reads the environment, and looks at the files that it names.
    pub async fn look() -> Self {
        tokio::task::spawn_blocking(Self::survey).await.unwrap_or_else(|_| Self::nothing())
    }

    fn nothing() -> Self {
        let profile = Profile { name: Self::profile_name(), files: Vec::new(), has_role: false };
        Self { environment: String::new(), profile, token: None, container: None }
    }

    fn survey() -> Self {
        let environment = match (set("AWS_ACCESS_KEY_ID"), set("AWS_SECRET_ACCESS_KEY")) {
            (Some(_), None) => "AWS_ACCESS_KEY_ID is set, AWS_SECRET_ACCESS_KEY is not",
            (None, Some(_)) => "AWS_SECRET_ACCESS_KEY is set, AWS_ACCESS_KEY_ID is not",
            (Some(_), Some(_)) => "AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not text",
            (None, None) => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set",
        };
        let token = set("AWS_WEB_IDENTITY_TOKEN_FILE").map(|path| Token {
            why: unreadable(Path::new(&path)),
            has_role: set("AWS_ROLE_ARN").is_some(),
            path,
        });
        let container = match set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            Some(path) => Some(format!("http://169.254.170.2{path}")),
            None => set("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        };
        let container = container.map(|address| match set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(file) if unreadable(Path::new(&file)).is_some() => {
                format!("the container's endpoint {address} with the token file '{file}'")
            }
            _ => format!("the container's endpoint {address}"),
        });
        Self { environment: environment.to_owned(), profile: Profile::survey(), token, container }
    }

    /// Returns the name of the profile in use.
    pub fn profile_name() -> String {
        set("AWS_PROFILE").unwrap_or_else(|| "default".to_owned())
    }

    /// Returns words for the role that a web identity token is shown for.
    pub fn role_by_token() -> String {
        let file = set("AWS_WEB_IDENTITY_TOKEN_FILE").unwrap_or_else(|| "of the profile".to_owned());
        let role = set("AWS_ROLE_ARN").unwrap_or_else(|| "of the profile".to_owned());
        format!("the role {role} for the web identity token {file}")
    }

    /// Returns whether the chain asks AWS STS, and not something on this machine.
    pub fn asks_sts(&self) -> bool {
        self.profile.has_role || self.token.as_ref().is_some_and(|token| token.why.is_none())
    }

    /// Returns whether the environment names a web identity token.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Returns words for the container's endpoint, if there is one.
    pub fn container(&self) -> Option<&str> {
        self.container.as_deref()
    }

    /// Returns the places that were looked at if the profile ended the search.
    pub fn upto_profile(&self, why: &str) -> String {
        let name = &self.profile.name;
        let mut text =
            format!("no credentials: {}; the profile '{name}' gives none: {why}", self.environment);
        if !self.profile.files.is_empty() {
            let _ = write!(text, " ({})", self.profile.files.join(", "));
        }
        text + "; nothing after it was asked. Name another profile by AWS_PROFILE, or mend this one"
    }

    /// Returns the places that were looked at if the web identity token ended the search.
    pub fn upto_token(&self, why: &str) -> String {
        let Some(token) = &self.token else { return self.upto_instance(why) };
        let (path, before) = (&token.path, self.before_token());
        match &token.why {
            Some(why) => format!(
                "{before}; the web identity token file '{path}' (AWS_WEB_IDENTITY_TOKEN_FILE) {why}; nothing after it was \
                 asked. Mount the token of the pod's service account there"
            ),
            None if !token.has_role => format!(
                "{before}; AWS_WEB_IDENTITY_TOKEN_FILE is '{path}', and AWS_ROLE_ARN, the role for it, is not set"
            ),
            None => format!("{before}; the web identity token file '{path}': {why}"),
        }
    }

    /// Returns the places that were searched, for a search that ended at the container's endpoint.
    pub fn upto_container(&self, why: &str) -> String {
        format!(
            "{}; {NO_TOKEN}; {why}. It serves the credentials of the task's or the pod's role \
             (AWS_CONTAINER_CREDENTIALS_FULL_URI or …_RELATIVE_URI): see that it is reachable and that there is one",
            self.before_token()
        )
    }

    /// Returns the places that were looked at if the search went to its end.
    pub fn upto_instance(&self, why: &str) -> String {
        format!(
            "{}; {NO_TOKEN}; no container endpoint (AWS_CONTAINER_CREDENTIALS_FULL_URI or …_RELATIVE_URI is not set); \
             {why}. To have credentials, {ADVICE}",
            self.before_token()
        )
    }

    fn before_token(&self) -> String {
        let Profile { name, files, .. } = &self.profile;
        format!("no credentials: {}; profile '{name}' ({})", self.environment, files.join(", "))
    }
}

const NO_TOKEN: &str = "no web identity token (AWS_WEB_IDENTITY_TOKEN_FILE is not set)";

impl Profile {
    fn survey() -> Self {
        let name = Sources::profile_name();
        let (mut files, mut has_role) = (Vec::new(), false);
        for (variable, default) in
            [("AWS_CONFIG_FILE", ".aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")]
        {
            let path = set(variable).unwrap_or_else(|| match set("HOME") {
                Some(home) => format!("{}/{default}", home.trim_end_matches('/')),
                None => format!("~/{default}"),
            });
            files.push(match unreadable(Path::new(&path)) {
                Some(why) => format!("{path} {why}"),
                None => match read(Path::new(&path)).and_then(|text| section(&text, &name)) {
                    None => format!("{path} does not have it"),
                    Some(lines) => {
                        has_role |= lines.iter().any(|line| line.trim_start().starts_with("role_arn"));
                        format!("{path} has it")
                    }
                },
            });
        }
        Self { name, files, has_role }
    }
}

/// Returns the lines of a profile; `None` if the text has no such profile.
fn section(text: &str, name: &str) -> Option<Vec<String>> {
    let is_head = |line: &str| line.trim_start().starts_with('[');
    let is_ours = |line: &str| {
        let head = line.trim().trim_start_matches('[').split(']').next().unwrap_or_default().trim();
        head.strip_prefix("profile").map_or(head, str::trim) == name
    };
    let mut lines = text.lines().skip_while(|line| !(is_head(line) && is_ours(line)));
    lines.next()?;
    Some(lines.take_while(|line| !is_head(line)).map(str::to_owned).collect())
}

/// Returns a variable of the environment; `None` if it is not set, or blank.
fn set(variable: &str) -> Option<String> {
    let value = std::env::var_os(variable)?.to_string_lossy().into_owned();
    (!value.trim().is_empty()).then_some(value)
}

fn read(path: &Path) -> Option<String> {
    std::io::read_to_string(kms_core::primitives::open_file(path).ok()?).ok()
}

/// Returns why a file cannot be read; `None` if it can.
fn unreadable(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path);
    match metadata
        .and_then(|metadata| if metadata.is_file() { std::fs::File::open(path).map(Some) } else { Ok(None) })
    {
        Ok(Some(_)) => None,
        Ok(None) => Some("is not a file".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some("is missing".to_owned()),
        Err(error) => Some(format!("cannot be read: {error}")),
    }
}

/// Asks instance metadata why there are no credentials, and returns the answer in words.
pub async fn instance() -> String {
    const DISABLED: &str = "AWS_EC2_METADATA_DISABLED";
    if set(DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return format!("instance metadata (IMDS) is switched off by {DISABLED}");
    }
    let client = imds::Client::builder()
        .max_attempts(1)
        .connect_timeout(INSTANCE_TIMEOUT)
        .read_timeout(INSTANCE_TIMEOUT)
        .build();
    let asked = client.get("/latest/meta-data/iam/security-credentials/");
    let why = match tokio::time::timeout(INSTANCE_TIMEOUT * 3 / 2, asked).await {
        Ok(Ok(_)) => "answers by now".to_owned(),
        Ok(Err(ImdsError::ErrorResponse(answer))) => match answer.response().status().as_u16() {
            404 => "says that the instance has no role".to_owned(),
            status => format!("answers with status {status}"),
        },
        Ok(Err(ImdsError::FailedToLoadToken(failed))) if !failed.is_dispatch_failure() => {
            "gives no session token".to_owned()
        }
        Ok(Err(_)) | Err(_) => {
            "is not reachable (no instance of EC2, switched off, or too many hops away for a container)"
                .to_owned()
        }
    };
    format!("instance metadata (IMDS) {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_in_both_forms() {
        let text = "[default]\nregion = x\n[profile minio]\nrole_arn = arn\n\n[ other ]\n";
        assert_eq!(section(text, "default").unwrap(), ["region = x"]);
        assert_eq!(section(text, "minio").unwrap(), ["role_arn = arn", ""]);
        assert_eq!(section(text, "other").unwrap(), [""; 0]);
        assert_eq!(section(text, "absent"), None);
    }
}
