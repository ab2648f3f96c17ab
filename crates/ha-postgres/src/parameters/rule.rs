//! One rule of `pg_hba.conf`, looked at before a server sees it: one that is faulty would make the server
//! reject the whole file, and keep it from starting.

use std::net::IpAddr;

const HOSTS: [&str; 5] = ["host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];
const METHODS: [&str; 11] = [
    "trust",
    "reject",
    "scram-sha-256",
    "md5",
    "password",
    "cert",
    "peer",
    "ident",
    "gss",
    "ldap",
    "radius",
];

/// Checks a rule as a cluster sets it.
///
/// # Errors
/// Why it is none, in words.
///
/// # Sources
/// PostgreSQL manual, "The `pg_hba.conf` File"; `hba.c: parse_hba_line`.
pub fn check_rule(rule: &str) -> Result<(), String> {
    if rule.chars().any(char::is_control) {
        return Err("a rule is one line".to_owned());
    }
    let words = words(rule)?;
    let mut words = words.iter().map(String::as_str);
    let kind = words.next().ok_or("it is empty")?;
    let mut next = |what: &str| words.next().ok_or_else(|| format!("it names no {what}"));
    let host = HOSTS.contains(&kind);
    if kind != "local" && !host {
        return Err(format!("it begins with {kind:?}: local, {} are known", HOSTS.join(", ")));
    }
    for what in ["database", "user"] {
        if next(what)?.contains('@') {
            return Err(format!("a file of {what}s would have to be on every node"));
        }
    }
    let mut method = if host {
        let address = next("address")?;
        check_address(address, &mut next)?
    } else {
        None
    };
    let method = match method.take() {
        Some(word) => word,
        None => next("method")?.to_owned(),
    };
    if !METHODS.contains(&method.as_str()) {
        return Err(format!("{method:?} is no method: {} are", METHODS.join(", ")));
    }
    if matches!(method.as_str(), "peer") && host
        || matches!(method.as_str(), "cert" | "gss") && !host
    {
        return Err(format!("method {method} does not go with {kind}"));
    }
    if method == "cert" && kind != "hostssl" {
        return Err("method cert goes with hostssl only".to_owned());
    }
    if matches!(method.as_str(), "ldap" | "radius") && words.clone().next().is_none() {
        return Err(format!("method {method} needs options"));
    }
    match words.find(|option| !option.contains('=')) {
        Some(option) => Err(format!("{option:?} is no option: they are written name=value")),
        None => Ok(()),
    }
}

/// Returns the method if the word after the address was read and is one: not a mask.
fn check_address<'a>(
    address: &str,
    next: &mut impl FnMut(&str) -> Result<&'a str, String>,
) -> Result<Option<String>, String> {
    if matches!(address, "all" | "samehost" | "samenet") {
        return Ok(None);
    }
    if let Some((ip, bits)) = address.split_once('/') {
        let ip: IpAddr = ip.parse().map_err(|_| format!("{address:?} is no address"))?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let bits = bits.parse::<u8>().ok().filter(|bits| *bits <= most);
        return bits.map(|_| None).ok_or_else(|| format!("{address:?} is no network"));
    }
    if let Ok(ip) = address.parse::<IpAddr>() {
        let mask = next("mask")?;
        let fits = mask.parse::<IpAddr>().is_ok_and(|mask| mask.is_ipv4() == ip.is_ipv4());
        return if fits { Ok(None) } else { Err(format!("{mask:?} is no mask of {address}")) };
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if address.is_empty() || !address.chars().all(plain) {
        return Err(format!("{address:?} is no address"));
    }
    Ok(None)
}

/// Splits a rule as the server does: blanks between words, quotes around some, a comment at the end.
fn words(rule: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for letter in rule.chars() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '#' if !quoted => break,
            ' ' | '\t' if !quoted => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    if quoted {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    // `a, b` is one field: a list goes on after a comma.
    let mut fields: Vec<String> = Vec::new();
    for word in words {
        match fields.last_mut() {
            Some(last) if last.ends_with(',') || word.starts_with(',') => last.push_str(&word),
            _ => fields.push(word),
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rules_that_a_server_would_take_are_taken() {
        #[rustfmt::skip]
        let table = [
            ("local all all scram-sha-256",                        true),
            ("host all all all trust",                             true),
            ("host app,web \"My User\" 10.0.0.0/8 scram-sha-256",  true),
            ("host app, web all 10.0.0.0/8 reject # why",          true),
            ("hostssl all all ::/0 cert clientcert=verify-full",   true),
            ("host all all 10.0.0.1 255.255.255.255 md5",          true),
            ("host all all db.example.org reject",                 true),
            ("host all +group .example.org scram-sha-256",         true),
            ("",                                                   false),
            ("# nothing",                                          false),
            ("hosts all all all trust",                            false),
            ("host all all trust",                                 false),
            ("host all all 10.0.0.0/33 trust",                     false),
            ("host all all 10.0.0.1 trust",                        false),
            ("host all all 10.0.0.300/8 trust",                    false),
            ("host all all all nonsense",                          false),
            ("host all all all peer",                              false),
            ("host all all all cert",                              false),
            ("host all all all ldap",                              false),
            ("host all all all trust sometimes",                   false),
            ("host all \"open all trust",                          false),
            ("local all @file trust",                              false),
            ("local all all trust\nlocal all all reject",          false),
        ];
        for (rule, accepted) in table {
            let result = check_rule(rule);
            assert_eq!(result.is_ok(), accepted, "{rule:?}: {result:?}");
        }
    }
}
