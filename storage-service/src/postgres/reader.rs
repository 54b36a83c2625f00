//! A lane that reads: everything that waits is one look at the database, in one snapshot.

use std::sync::Arc;
use std::time::Duration;

use tern_postgres::Failure;
use tern_proto::{ConversationId, MediaId, UserId};
use tern_runtime::queue::Queue;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::connection::Connection;
use super::counted::Counted;
use super::options::{Isolation, Options};
use super::{looks, page};
use crate::{Conversation, Device, DeviceState, History, HistoryRequest, Listed, Page, PageRequest, Unavailable};

/// Looks of one batch.
pub(super) const BATCH: usize = 512;
/// One attempt takes no longer, or the connection is given up.
const ATTEMPT: Duration = Duration::from_secs(4);
/// After this time no further attempt is made.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where an answer goes.
pub(super) type Answer<T> = oneshot::Sender<Result<T, Unavailable>>;

/// Something to read.
pub(super) enum Look {
    Page(PageRequest, Answer<Page>),
    Device(Device, Answer<DeviceState>),
    HighestId(Device, Answer<u64>),
    Underived(Option<Device>, usize, Answer<Vec<Device>>),
    Conversations(UserId, Option<ConversationId>, usize, Answer<Vec<Listed>>),
    Conversation(ConversationId, Answer<Option<Conversation>>),
    History(HistoryRequest, Answer<History>),
    References(MediaId, Option<UserId>, Option<ConversationId>, usize, Answer<Vec<(ConversationId, u64)>>),
    Ready(Answer<()>),
}

/// The same looks by kind: those of a kind that comes often are one statement.
#[derive(Default)]
pub(super) struct Looks {
    pub pages: Vec<(PageRequest, Answer<Page>)>,
    pub devices: Vec<(Device, Answer<DeviceState>)>,
    pub highest_ids: Vec<(Device, Answer<u64>)>,
    pub others: Vec<Look>,
}

/// The lane.
pub(super) struct Reader {
    pub options: Arc<Options>,
    pub queue: Arc<Queue<Look>>,
    pub connection: Option<Connection>,
    pub counted: Counted,
}

impl Reader {
    /// Serves until the queue is closed and empty.
    pub(super) async fn run(mut self) {
        while let Some(looks) = self.queue.next().await {
            self.serve(Looks::sort(looks)).await;
        }
    }

    async fn serve(&mut self, looks: Looks) {
        let began = Instant::now();
        loop {
            let failure = match self.attempt(&looks).await {
                Ok(answers) => return answers.tell(looks),
                Err(failure) => failure,
            };
            self.counted.database.failed(&failure);
            if !failure.leaves_the_connection() {
                self.connection = None;
            }
            let again = !matches!(failure, Failure::Refused(_) | Failure::Damaged(_));
            if !again || began.elapsed() >= PATIENCE {
                tracing::warn!(error = %failure, "not read");
                return looks.refuse(&Unavailable(failure.to_string()));
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..50))).await;
        }
    }

    async fn attempt(&mut self, looks: &Looks) -> Result<Answers, Failure> {
        if self.connection.is_none() {
            self.connection = Some(Connection::open(&self.options).await?);
        }
        let Some(connection) = &self.connection else { return Err(Failure::Late) };
        let read = read(connection, self.options.isolation, looks);
        let began = Instant::now();
        let answers = timeout(ATTEMPT, read).await.unwrap_or(Err(Failure::Late))?;
        self.counted.database.reads.observe(began.elapsed().as_secs_f64());
        Ok(answers)
    }
}

/// The answers to [`Looks`], in the same order.
struct Answers {
    pages: Vec<Page>,
    devices: Vec<DeviceState>,
    highest_ids: Vec<u64>,
    others: Vec<looks::Other>,
}

async fn read(connection: &Connection, isolation: Isolation, looks: &Looks) -> Result<Answers, Failure> {
    let client = &connection.client;
    let begin = match isolation {
        Isolation::ReadCommitted => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        Isolation::Serializable => "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
    };
    // Nothing here waits for the answer of another, so all of it is one flight.
    let others = futures_util::future::join_all(looks.others.iter().map(|look| looks::other(connection, look)));
    let (begun, epoch, pages, devices, highest_ids, others, ended) = tokio::join!(
        biased;
        client.batch_execute(begin),
        client.query_one(&connection.statements.epoch, &[]),
        page::rows(connection, &looks.pages),
        looks::device_rows(connection, &looks.devices),
        looks::highest_ids(connection, &looks.highest_ids),
        others,
        client.batch_execute("COMMIT"),
    );
    begun?;
    let epoch = epoch?.get::<_, i64>(0).cast_unsigned();
    let answers = Answers {
        pages: page::build(epoch, &looks.pages, pages?)?,
        devices: looks::devices(epoch, &looks.devices, &devices?)?,
        highest_ids: highest_ids?,
        others: others.into_iter().collect::<Result<_, Failure>>()?,
    };
    ended?;
    Ok(answers)
}

impl Looks {
    fn sort(all: Vec<Look>) -> Looks {
        let mut looks = Looks::default();
        for look in all {
            match look {
                Look::Page(request, answer) => looks.pages.push((request, answer)),
                Look::Device(device, answer) => looks.devices.push((device, answer)),
                Look::HighestId(device, answer) => looks.highest_ids.push((device, answer)),
                other => looks.others.push(other),
            }
        }
        looks
    }

    fn refuse(self, why: &Unavailable) {
        // A caller that has gone away needs no answer; so everywhere below.
        self.pages.into_iter().for_each(|(_, answer)| drop(answer.send(Err(why.clone()))));
        self.devices.into_iter().for_each(|(_, answer)| drop(answer.send(Err(why.clone()))));
        self.highest_ids.into_iter().for_each(|(_, answer)| drop(answer.send(Err(why.clone()))));
        self.others.into_iter().for_each(|look| looks::refuse(look, why));
    }
}

impl Answers {
    fn tell(self, looks: Looks) {
        looks.pages.into_iter().zip(self.pages).for_each(|((_, answer), page)| drop(answer.send(Ok(page))));
        looks.devices.into_iter().zip(self.devices).for_each(|((_, answer), state)| drop(answer.send(Ok(state))));
        looks.highest_ids.into_iter().zip(self.highest_ids).for_each(|((_, answer), id)| drop(answer.send(Ok(id))));
        looks.others.into_iter().zip(self.others).for_each(|(look, other)| looks::tell(look, other));
    }
}
