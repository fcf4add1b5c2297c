//! Which call a path is: the platform's own routes, and `/function/NAME[.NAMESPACE][/path]`.
//! The server calls it for every request, before anything else looks at the path.
//! It never decodes or rewrites a function's path: what the client wrote is what the function gets.

/// A path, understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// `/`
    Home,
    /// `/healthz`
    Health,
    /// `/metrics`
    Metrics,
    /// `/system/functions`
    Functions,
    /// `/system/function/NAME`
    Function(&'a str),
    /// `/system/scale-function/NAME`
    Scale(&'a str),
    /// `/system/info`
    Info,
    /// `/system/logs`
    Logs,
    /// `/system/namespaces`
    Namespaces,
    /// Any other path under `/system/`, which needs the same credentials as the known ones.
    UnknownSystem,
    /// `/function/NAME[.NAMESPACE][/path]`
    Invoke(Target<'a>),
    /// Anything else.
    Unknown,
}

/// The function that a path names, and what of the path is the function's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// What stands before the last dot.
    pub(crate) name: &'a str,
    /// What stands after the last dot.
    pub(crate) namespace: Option<&'a str>,
    /// The rest of the path, from its slash on; empty where there is none.
    pub(crate) path: &'a str,
}

impl<'a> Route<'a> {
    /// Reads the path of a request (without its query).
    pub(crate) fn parse(path: &'a str) -> Route<'a> {
        if let Some(rest) = path.strip_prefix("/function/") {
            return Target::parse(rest).map_or(Route::Unknown, Route::Invoke);
        }
        if let Some(rest) = path.strip_prefix("/system/") {
            return Route::system(rest.strip_suffix('/').unwrap_or(rest));
        }
        match path {
            "/" => Route::Home,
            "/healthz" => Route::Health,
            "/metrics" => Route::Metrics,
            _ => Route::Unknown,
        }
    }

    fn system(rest: &'a str) -> Route<'a> {
        match rest.split_once('/') {
            None => match rest {
                "functions" => Route::Functions,
                "info" => Route::Info,
                "logs" => Route::Logs,
                "namespaces" => Route::Namespaces,
                _ => Route::UnknownSystem,
            },
            Some(("function", name)) if is_name(name) => Route::Function(name),
            Some(("scale-function", name)) if is_name(name) => Route::Scale(name),
            Some(_) => Route::UnknownSystem,
        }
    }
}

impl<'a> Target<'a> {
    fn parse(rest: &'a str) -> Option<Target<'a>> {
        let (full, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if !is_name(full) {
            return None;
        }
        match full.rsplit_once('.') {
            Some((name, namespace)) if !name.is_empty() && !namespace.is_empty() => {
                Some(Target { name, namespace: Some(namespace), path })
            }
            Some(_) => None,
            None => Some(Target { name: full, namespace: None, path }),
        }
    }
}

/// `[-a-zA-Z_0-9.]+`: what OpenFaaS's router takes for a name in a path. Whether it can be a function's name is
/// decided at deployment; here an impossible name is merely one that no function has.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn invoke<'a>(name: &'a str, namespace: Option<&'a str>, path: &'a str) -> Route<'a> {
        Route::Invoke(Target { name, namespace, path })
    }

    #[test]
    fn a_function_is_named_with_or_without_its_namespace() {
        assert_eq!(Route::parse("/function/echo"), invoke("echo", None, ""));
        assert_eq!(Route::parse("/function/echo/"), invoke("echo", None, "/"));
        assert_eq!(Route::parse("/function/echo.openfaas-fn"), invoke("echo", Some("openfaas-fn"), ""));
        assert_eq!(Route::parse("/function/a.b.c/d.e/f"), invoke("a.b", Some("c"), "/d.e/f"));
    }

    #[test]
    fn the_functions_own_path_is_left_alone() {
        assert_eq!(Route::parse("/function/echo/%2e%2e//a/../b"), invoke("echo", None, "/%2e%2e//a/../b"));
    }

    #[test]
    fn system_routes_take_a_trailing_slash() {
        assert_eq!(Route::parse("/system/functions"), Route::Functions);
        assert_eq!(Route::parse("/system/functions/"), Route::Functions);
        assert_eq!(Route::parse("/system/function/echo"), Route::Function("echo"));
        assert_eq!(Route::parse("/system/scale-function/echo"), Route::Scale("echo"));
        assert_eq!(Route::parse("/system/secrets"), Route::UnknownSystem);
        assert_eq!(Route::parse("/system/function/a/b"), Route::UnknownSystem);
    }

    #[test]
    fn what_names_no_function_is_unknown() {
        for path in
            ["/function/", "/function//x", "/function/.ns", "/function/echo.", "/function/a%20b", "/functions", "*", ""]
        {
            assert_eq!(Route::parse(path), Route::Unknown, "{path}");
        }
    }

    proptest! {
        #[test]
        fn the_parts_of_a_target_are_the_path(rest in "[-a-zA-Z_0-9./%]*") {
            let path = format!("/function/{rest}");
            if let Route::Invoke(target) = Route::parse(&path) {
                let namespace = target.namespace.map(|namespace| format!(".{namespace}")).unwrap_or_default();
                prop_assert_eq!(format!("{}{}{}", target.name, namespace, target.path), rest);
                prop_assert!(!target.name.is_empty());
                prop_assert!(target.path.is_empty() || target.path.starts_with('/'));
            }
        }

        #[test]
        fn everything_under_system_stays_behind_the_password(rest in "\\PC*") {
            let path = format!("/system/{rest}");
            let route = Route::parse(&path);
            prop_assert!(!matches!(route, Route::Home | Route::Health | Route::Metrics | Route::Unknown | Route::Invoke(_)));
        }
    }
}
