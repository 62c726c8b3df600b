//! What KES ignores or accepts is a warning here.

use std::time::Duration;

use kms_server::config::load_text;

use super::loading::{START, environment, loads, warnings, yaml};

#[test]
fn what_kes_passes_over_is_a_warning() {
    let (settings, told) =
        loads("api:\n  /v1/status/: {skip_auth: on, timeout: 3s}\n  /v1/nothing: {timeout: 1s}\n");
    assert!(settings.needs_certificates(), "a slash too many opens nothing");
    assert_eq!(settings.routes["/v1/status"].timeout, Some(Duration::from_secs(3)));
    assert!(told.contains("kes.yml:5: api./v1/status/.skip_auth: no effect: this opens nothing"), "{told}");
    assert!(told.contains("kes.yml:6: api./v1/nothing: there is no such route"), "{told}");

    let (settings, told) = loads("api:\n  /v1/status/: {skip_auth: on}\n  /v1/status: {timeout: 3s}\n");
    assert!(settings.needs_certificates() && settings.routes["/v1/status"].timeout.is_some());
    assert!(told.contains("api./v1/status/: no effect"), "{told}");

    let (_, told) = loads("api:\n  /v1/ready: {timeout: 0s}\n");
    assert!(told.contains("it is zero, so the route has its usual time"), "{told}");

    let (_, told) = loads("nonsense: {a: 1, a: 2, b: '${NO_SUCH}'}\n");
    assert!(told.starts_with("kes.yml:4: nonsense: passed over: unknown key"), "{told}");

    let (_, told) = loads("---\ntls: [\n");
    assert!(told.starts_with("kes.yml:4: a second document begins here and is passed over"), "{told}");

    let proxy = |proxy: &str| {
        let tls = format!("tls: {{key: k, cert: c, proxy: {{{proxy}}}}}\n");
        let text = START.replace("tls: {key: k, cert: c}\n", &tls) + "keystore: {fs: {path: p}}\n";
        let loaded = yaml(&text).unwrap();
        assert!(loaded.settings.tls.proxy.is_none());
        warnings(&loaded)
    };
    assert!(
        proxy("identities: [x], header: {cert: X}").contains("tls.proxy.identities[0]: passed over: 'x'")
    );
    let identity = "a".repeat(64);
    assert!(
        proxy(&format!("identities: [{identity}]")).contains("tls.proxy.header.cert: passed over: missing")
    );
}

#[test]
fn unknown_keys_of_yaml_are_warnings_that_the_check_does_not_let_pass() {
    let text = format!(
        "{START}nonsense: 1\ncache: {{expiry: {{any: 1m, some: 2m}}}}\nkeys: [{{name: a, size: 3}}]\nkeystore: {{fs: {{path: p}}}}\n"
    );
    let loaded = yaml(&text).unwrap();
    let told = warnings(&loaded);
    for part in [
        "kes.yml:3: nonsense: passed over: unknown key",
        "kes.yml:4: cache.expiry.some: passed over: unknown key",
        "kes.yml:5: keys[0].size: passed over: unknown key",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    let unknown = loaded.warnings.iter().filter(|warning| warning.to_string().contains("unknown key"));
    assert!(unknown.clone().count() == 3 && unknown.clone().all(|warning| warning.has_no_effect));
    assert_eq!(loaded.settings.cache.any, Duration::from_secs(60));
    let toml = "nonsense = 1\n";
    assert!(
        load_text(toml, "kms.toml", &environment())
            .unwrap_err()
            .to_string()
            .contains("kms.toml:1: nonsense: unknown key")
    );
}

#[test]
fn a_short_time_for_a_route_is_a_warning_in_a_config_for_kes() {
    let api = "api:\n  /v1/key/create/:\n    timeout: 150ms\n";
    let loaded = yaml(&format!("{START}keystore:\n  fs:\n    path: keys\n{api}")).unwrap();
    let told = warnings(&loaded);
    assert!(told.contains("/v1/key/create/.timeout") && told.contains("150ms"), "{told}");
    assert_eq!(loaded.settings.routes["/v1/key/create/"].timeout.unwrap().as_millis(), 150);
}

#[test]
fn a_proxy_that_is_there_twice_is_one() {
    let proxies = |identities: &str| {
        let proxy = format!(
            "  proxy:\n    header: {{cert: X-Cert}}\n    identities:\n{identities}keystore: {{fs: {{path: p}}}}\n"
        );
        yaml(&START.replace("tls: {key: k, cert: c}\n", &format!("tls:\n  key: k\n  cert: c\n{proxy}")))
    };
    let identity = "a".repeat(64);
    let line = format!("    - {identity}\n");
    let loaded = proxies(&format!("    - ''\n{line}{line}")).unwrap();
    assert_eq!(loaded.settings.tls.proxy.as_ref().unwrap().identities.len(), 1);
    let told = warnings(&loaded);
    assert!(
        told.contains(
            "kes.yml:10: tls.proxy.identities[2]: it is there twice, first as tls.proxy.identities[1]"
        ),
        "{told}"
    );
    // A conflict has the line of its identity, even if an identity before it was ignored.
    let policy = format!("policy:\n  a: {{identities: [{identity}]}}\n");
    let problem = proxies(&format!("    - ''\n{line}{policy}")).map(drop).unwrap_err().to_string();
    assert!(problem.contains("(see tls.proxy.identities[1] at kes.yml:9)"), "{problem}");
}
