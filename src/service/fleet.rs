//! The supervisors that make this service's cells.
//!
//! They are processes of their own, started by the parent: new ones come after a reload or in place of one that died,
//! old ones leave once their last run has ended.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::supervisor::client::Client;

/// Longest wait for a supervisor when there is none: what starting one takes, several times over.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Pause between two looks at whether a leaving supervisor still has runs.
const LEAVE_PAUSE: Duration = Duration::from_millis(50);

#[derive(Default)]
pub struct Fleet {
    members: Mutex<Vec<Member>>,
    joined: Notify,
}

struct Member {
    generation: u64,
    client: Arc<Client>,
    /// The task that takes its answers.
    reader: tokio::task::JoinHandle<()>,
}

impl Fleet {
    /// Takes over the socket of a supervisor of `generation`; those of earlier ones get no more runs.
    ///
    /// # Errors
    /// The socket cannot be watched.
    pub fn join(self: &Arc<Self>, socket: OwnedFd, generation: u64) -> io::Result<()> {
        let (client, answers) = Client::connect(socket)?;
        let fleet = Arc::clone(self);
        let lost = Arc::clone(&client);
        let reader = tokio::spawn(async move {
            if let Err(error) = answers.await {
                tracing::error!(%error, "a supervisor is gone, and every cell of it");
            } else {
                tracing::error!("a supervisor hung up; every cell of it is gone");
            }
            fleet.lock().retain(|member| !Arc::ptr_eq(&member.client, &lost));
        });
        let mut members = self.lock();
        let (old, current) = members.drain(..).partition(|member| member.generation < generation);
        *members = current;
        members.push(Member { generation, client, reader });
        drop(members);
        old.into_iter().for_each(leave);
        self.joined.notify_waiters();
        Ok(())
    }

    /// The supervisor with the least to do; waits a little where there is none.
    pub async fn pick(&self) -> Option<Arc<Client>> {
        let wait = async {
            loop {
                let joined = self.joined.notified();
                if let Some(client) = self.least_loaded() {
                    return client;
                }
                joined.await;
            }
        };
        timeout(WAIT_MAX, wait).await.ok()
    }

    /// Supervisors that are there.
    pub fn count(&self) -> usize {
        self.lock().iter().filter(|member| !member.client.is_lost()).count()
    }

    fn least_loaded(&self) -> Option<Arc<Client>> {
        let members = self.lock();
        let alive = members.iter().filter(|member| !member.client.is_lost());
        alive.min_by_key(|member| member.client.load()).map(|member| Arc::clone(&member.client))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hangs up once the last run has ended, which ends the supervisor.
fn leave(member: Member) {
    tokio::spawn(async move {
        while member.client.load() > 0 {
            tokio::time::sleep(LEAVE_PAUSE).await;
        }
        member.reader.abort();
    });
}
