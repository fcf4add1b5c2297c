//! Checks a deployment before anything of it is kept: names, image, environment, limits, what is not supported.
//! The function manager calls it for every POST and PUT of `/system/functions`.
//! It never starts or stores anything; it does read the image store, so it runs on a blocking thread.

use crate::agents::Agents;
use crate::wire::FunctionDeployment;
use kernlet_image::{
    ConfigError, FunctionName, FunctionSpec, NameError, Namespace, Overrides, Reference, ReferenceError, Store,
    StoreError, block_devices,
};
use std::collections::BTreeMap;
use thiserror::Error;

/// Why a deployment was refused.
#[derive(Debug, Error)]
pub(crate) enum DeployError {
    /// The function's or the namespace's name breaks RFC 1123.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It names secrets.
    #[error(
        "The function asks for the secrets {0:?}: this version runs functions without secrets. Deploy it without \
         \"secrets\", and pass what is not secret in \"envVars\""
    )]
    Secrets(Vec<String>),
    /// An environment variable has an impossible name or value.
    #[error("The environment variable {name:?} {problem}")]
    Environment { name: String, problem: &'static str },
    /// The image's name cannot be one.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The image is not in the store.
    #[error(
        "The image {0} is not in this machine's store: build it with \"kernlet build DIRECTORY -t {0}\", or see what \
         there is with \"kernlet images\""
    )]
    UnknownImage(Reference),
    /// The image is there and cannot be used.
    #[error("The function cannot be deployed from its image")]
    Image(#[source] Box<StoreError>),
    /// Annotations, labels, environment or limits configure the function in an impossible way.
    #[error("The function's configuration is refused")]
    Config(#[source] ConfigError),
    /// It asks for an accelerator agent that is not there.
    #[error("The function cannot use its accelerator agent: {0}")]
    Agent(String),
}

impl DeployError {
    /// Whether the request is at fault, rather than the machine.
    pub(crate) fn is_the_requests(&self) -> bool {
        match self {
            DeployError::Image(error) => !matches!(**error, StoreError::Io(_) | StoreError::Layout { .. }),
            _ => true,
        }
    }
}

/// A function's name and namespace, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: FunctionName,
    pub(crate) namespace: Namespace,
}

impl Identity {
    /// Checks a name, and the first namespace that says something: the body's, the query's, the default one.
    pub(crate) fn parse(name: &str, in_body: Option<&str>, in_query: Option<&str>) -> Result<Identity, NameError> {
        let named = [in_body, in_query].into_iter().flatten().find(|namespace| !namespace.is_empty());
        let namespace = match named {
            Some(namespace) => namespace.parse()?,
            None => Namespace::default(),
        };
        Ok(Identity { name: name.parse()?, namespace })
    }

    /// `NAME.NAMESPACE`: no name has a dot, so no two functions share one.
    pub(crate) fn key(&self) -> String {
        key(self.name.as_str(), self.namespace.as_str())
    }
}

/// The key of a function by its unchecked names: one that cannot exist is merely never found.
pub(crate) fn key(name: &str, namespace: &str) -> String {
    [name, ".", namespace].concat()
}

/// Checks everything and says how the function is to be run.
pub(crate) fn check(
    deployment: &FunctionDeployment,
    identity: &Identity,
    store: &Store,
    agents: Option<&dyn Agents>,
) -> Result<FunctionSpec, DeployError> {
    if let Some(secrets) = deployment.secrets.as_ref().filter(|secrets| !secrets.is_empty()) {
        return Err(DeployError::Secrets(secrets.clone()));
    }
    let nothing = BTreeMap::new();
    let environment = deployment.env_vars.as_ref().unwrap_or(&nothing);
    check_environment(environment)?;
    let reference: Reference = deployment.image.parse()?;
    let unpacked = store.unpack(&reference).map_err(|error| match error {
        StoreError::UnknownImage { reference, .. } => DeployError::UnknownImage(reference),
        error => DeployError::Image(Box::new(error)),
    })?;
    let limits = deployment.limits.as_ref();
    let overrides = Overrides {
        labels: deployment.labels.as_ref().unwrap_or(&nothing),
        annotations: deployment.annotations.as_ref().unwrap_or(&nothing),
        environment,
        memory_limit: limits.and_then(|limits| said(&limits.memory)),
        cpu_limit: limits.and_then(|limits| said(&limits.cpu)),
    };
    let config = unpacked.config.overridden_by(&overrides).map_err(DeployError::Config)?;
    block_devices(&config.blocks, &unpacked.blocks).map_err(DeployError::Config)?;
    match (&config.agent, agents) {
        (Some(name), Some(agents)) => agents.has(Some(name)).map(|_| ()).map_err(DeployError::Agent)?,
        (Some(name), None) => {
            return Err(DeployError::Agent(format!("this gateway knows no agents, so none {name:?}")));
        }
        (None, _) => {}
    }
    Ok(FunctionSpec {
        name: identity.name.clone(),
        namespace: identity.namespace.clone(),
        replica: 0,
        image: deployment.image.clone(),
        digest: unpacked.digest,
        kernel: unpacked.kernel,
        resources: unpacked.resources,
        blocks: unpacked.blocks,
        config,
        environment: environment.clone(),
        template: None,
    })
}

/// A limit that says something.
fn said(limit: &Option<String>) -> Option<&str> {
    limit.as_deref().filter(|limit| !limit.is_empty())
}

/// Kubernetes's rule, since functions come from there: letters, digits, `_`, `-` and `.`, no digit first.
fn check_environment(environment: &BTreeMap<String, String>) -> Result<(), DeployError> {
    for (name, value) in environment {
        let refused = |problem| Err(DeployError::Environment { name: name.clone(), problem });
        let of_the_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if name.is_empty()
            || name.starts_with(|first: char| first.is_ascii_digit())
            || !name.bytes().all(of_the_alphabet)
        {
            return refused(
                "has a name that none can have: use letters, digits, \"_\", \"-\" and \".\", and no digit first",
            );
        }
        if value.contains('\0') {
            return refused("has a zero byte in its value, which no variable can hold: take it out");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_namespace_of_the_body_comes_before_the_querys() {
        let namespace = |body, query| Identity::parse("echo", body, query).unwrap().namespace.as_str().to_owned();
        assert_eq!(namespace(Some("a"), Some("b")), "a");
        assert_eq!(namespace(Some(""), Some("b")), "b");
        assert_eq!(namespace(None, Some("")), "openfaas-fn");
    }

    #[test]
    fn a_name_that_breaks_rfc_1123_is_refused_with_the_rule() {
        let long = "a".repeat(64);
        for name in ["", "Echo", "-echo", "echo-", "e_cho", "e.cho", long.as_str()] {
            let message = Identity::parse(name, None, None).unwrap_err().to_string();
            assert!(message.contains("RFC 1123"), "{message}");
        }
        assert!(Identity::parse("echo", Some("Team"), None).is_err());
    }

    fn environment(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn impossible_variables_are_refused_by_name() {
        for name in ["", "1a", "a=b", "a b", "ä", "a\0"] {
            assert!(check_environment(&environment(name, "")).is_err(), "{name}");
        }
        assert!(check_environment(&environment("a", "\0")).is_err());
        assert!(check_environment(&environment("_a-b.C9", "any = thing")).is_ok());
    }

    proptest! {
        #[test]
        fn the_key_of_an_identity_names_it_alone(name in "[a-z0-9]{1,8}", namespace in "[a-z0-9]{1,8}") {
            let identity = Identity::parse(&name, Some(&namespace), None).unwrap();
            let key = identity.key();
            prop_assert_eq!(key.split_once('.'), Some((name.as_str(), namespace.as_str())));
        }

        #[test]
        fn any_identity_is_answered_without_a_panic(name in "\\PC*", namespace in "\\PC*") {
            let _ = Identity::parse(&name, Some(&namespace), None);
        }
    }
}
