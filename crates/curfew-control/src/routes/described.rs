//! What the OpenAPI document says of every operation alike: the problems that any caller may be answered with, and words
//! for each answer. What one operation answers is said beside its handler.

use axum::http::StatusCode;
use utoipa::{
    Modify, ToSchema,
    openapi::{
        Content, OpenApi, Ref, RefOr,
        path::{Operation, PathItem},
        response::{Response, ResponseBuilder},
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use crate::{
    guard,
    problem::{Code, Document, PROBLEM_JSON},
};

/// Adds how callers show who they are.
pub(super) struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut OpenApi) {
        if let Some(components) = &mut openapi.components {
            components.add_security_scheme(
                "token",
                SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
            );
        }
    }
}

/// Adds to each operation what every one of its kind may answer. What an operation says itself stays.
pub(super) fn complete(openapi: &mut OpenApi) {
    for (path, item) in &mut openapi.paths.paths {
        let open = guard::OPEN.contains(&path.as_str());
        for (operation, changes) in operations(item) {
            name(operation);
            let common = common(operation, path, open, changes);
            let responses = &mut operation.responses.responses;
            for status in common {
                let key = status.as_u16().to_string();
                responses.entry(key).or_insert_with(|| problem("").into());
            }
            let other = "any other problem: `code` says which";
            let other = || problem(other).into();
            responses.entry("default".to_owned()).or_insert_with(other);
            for (key, response) in responses {
                if let RefOr::T(response) = response
                    && response.description.is_empty()
                {
                    response.description = words(key);
                }
            }
        }
    }
}

/// The operations of a path, and whether each changes something.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (&mut Operation, bool)> {
    let all = [
        (item.get.as_mut(), false),
        (item.put.as_mut(), true),
        (item.post.as_mut(), true),
        (item.delete.as_mut(), true),
    ];
    let all = all.into_iter();
    all.filter_map(|(operation, changes)| Some((operation?, changes)))
}

/// Handlers of several things have the same name; in the document each has its own.
fn name(operation: &mut Operation) {
    let tag = operation.tags.as_ref().and_then(|tags| tags.first());
    if let (Some(tag), Some(id)) = (tag, &mut operation.operation_id)
        && tag != id
    {
        *id = format!("{tag}_{id}");
    }
}

fn common(operation: &Operation, path: &str, open: bool, changes: bool) -> Vec<StatusCode> {
    let mut codes = vec![Code::WrongHost];
    if !open {
        codes.extend([Code::Unauthenticated, Code::Forbidden]);
        codes.extend([Code::TooManyRequests, Code::Internal]);
    }
    if operation.parameters.is_some() {
        codes.push(Code::BadRequest);
    }
    if path.contains('{') {
        codes.push(Code::NotFound);
    }
    if operation.request_body.is_some() {
        codes.extend([Code::MalformedJson, Code::RequestTimeout, Code::TooLarge]);
        codes.extend([Code::UnsupportedMediaType, Code::Invalid]);
    }
    if changes {
        codes.extend([Code::Invalid, Code::NotOnRecord]);
    }
    codes.into_iter().map(Code::status).collect()
}

fn problem(description: &str) -> Response {
    let (name, content) = (Document::name(), Content::new);
    ResponseBuilder::new()
        .description(description)
        .content(PROBLEM_JSON, content(Some(Ref::from_schema_name(name))))
        .build()
}

/// What a status means here: the codes that have it, or what HTTP says.
fn words(status: &str) -> String {
    let status = status
        .parse()
        .ok()
        .and_then(|s| StatusCode::from_u16(s).ok());
    let Some(status) = status else {
        return String::new();
    };
    let codes = Code::ALL.iter().filter(|code| code.status() == status);
    let codes: Vec<String> = codes
        .map(|code| format!("`{}`: {}", code.code(), code.title()))
        .collect();
    if codes.is_empty() {
        return status.canonical_reason().unwrap_or_default().to_owned();
    }
    codes.join("; ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::routes::all;

    /// In the document itself the last of two schemas of one name has already replaced the other.
    #[test]
    fn each_schema_has_a_name_of_its_own() {
        let mut named = BTreeMap::new();
        for (name, schema) in all().into_iter().flat_map(|(schemas, ..)| schemas) {
            let schema = serde_json::to_value(schema).unwrap();
            let known = named.entry(name.clone()).or_insert_with(|| schema.clone());
            assert_eq!(*known, schema, "two things are called {name}");
        }
        assert!(named.contains_key("Binding"), "{:?}", named.keys());
    }
}
