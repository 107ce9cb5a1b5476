//! The index: from the hash of a key to the groups of sessions that may carry it. A lookup may name a group that
//! does not carry the key after all (two keys of one hash), so its caller looks; what keys are may not live here.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::Hash;

use crate::{
    intern::{short_hash, spread},
    record::NIL,
};

/// One group under one key, in two lists: of the groups of this key, and of the keys of this group.
#[derive(Clone, Copy, Debug)]
struct Post {
    hash: u32,
    group: u32,
    prev: u32,
    next: u32,
    sibling: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Postings {
    posts: Vec<Post>,
    free: Vec<u32>,
    /// The first post of each hash.
    heads: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Postings {
    fn get(&self, post: u32) -> Option<&Post> {
        self.posts.get(post as usize)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    pub(crate) fn hash(&self, key: &impl Hash) -> u32 {
        short_hash(&self.hasher, key)
    }

    fn head(&self, hash: u32) -> Option<u32> {
        let is = |&post: &u32| self.get(post).is_some_and(|post| post.hash == hash);
        self.heads.find(spread(hash), is).copied()
    }

    /// Puts `group` under a key; `sibling` is its last post, the answer its new one.
    pub(crate) fn add(&mut self, hash: u32, group: u32, sibling: u32) -> u32 {
        let head = self.head(hash);
        let new = Post {
            hash,
            group,
            prev: NIL,
            next: head.unwrap_or(NIL),
            sibling,
        };
        let post = match self.free.pop() {
            Some(post) => {
                if let Some(place) = self.posts.get_mut(post as usize) {
                    *place = new;
                }
                post
            }
            None => {
                let post = u32::try_from(self.posts.len()).unwrap_or(NIL);
                self.posts.push(new);
                post
            }
        };
        match head {
            Some(head) => {
                if let Some(next) = self.posts.get_mut(head as usize) {
                    next.prev = post;
                }
                if let Some(first) = self.heads.find_mut(spread(hash), |&first| first == head) {
                    *first = post;
                }
            }
            None => {
                let posts = &self.posts;
                let again = |&post: &u32| {
                    let post = posts.get(post as usize);
                    spread(post.map_or(0, |post| post.hash))
                };
                self.heads.insert_unique(spread(hash), post, again);
            }
        }
        post
    }

    /// Takes a group out of every list, from its last post on.
    pub(crate) fn remove(&mut self, mut post: u32) {
        while let Some(&gone) = self.get(post) {
            if let Some(next) = self.posts.get_mut(gone.next as usize) {
                next.prev = gone.prev;
            }
            match self.posts.get_mut(gone.prev as usize) {
                Some(prev) => prev.next = gone.next,
                None => {
                    let is = |&first: &u32| first == post;
                    if let Ok(mut first) = self.heads.find_entry(spread(gone.hash), is) {
                        if gone.next == NIL {
                            first.remove();
                        } else {
                            *first.get_mut() = gone.next;
                        }
                    }
                }
            }
            self.free.push(post);
            post = gone.sibling;
        }
    }

    /// The groups that may carry the key of this hash.
    pub(crate) fn groups(&self, hash: u32) -> impl Iterator<Item = u32> + '_ {
        let next = |post: &&Post| self.get(post.next);
        let first = self.head(hash).and_then(|post| self.get(post));
        std::iter::successors(first, next).map(|post| post.group)
    }
}
