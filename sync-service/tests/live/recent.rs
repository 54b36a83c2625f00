//! What everybody promises who keeps what was committed lately.

use std::sync::Arc;
use std::time::Duration;

use tern_proto::ConversationId;
use tern_proto::key::Class;
use tern_storage::Sent;
use tern_sync::recent::{Confirmed, Look, Name, Stored};
use tern_sync::{Device, Recent, Risen};

use crate::contract::{LIFETIME, device};

const EPOCH: u64 = 0xe0c;
/// For how long a confirmation counts here.
const LATELY: Duration = Duration::from_secs(1);

pub(crate) async fn holds(recent: &dyn Recent) {
    heads_rise_only(recent).await;
    a_confirmation_counts_for_a_while(recent).await;
    epochs_know_nothing_of_each_other(recent).await;
    results_are_of_their_names(recent).await;
}

fn risen(device: &Device, epoch: u64, class: Class, version: u64) -> Risen {
    Risen { user: device.user.clone(), epoch, class, version }
}

async fn look(recent: &dyn Recent, device: &Device) -> Look {
    recent.look(device, EPOCH, LATELY).await.unwrap()
}

async fn heads_rise_only(recent: &dyn Recent) {
    let phone = device("gina/phone");
    let of = |class, version| risen(&phone, EPOCH, class, version);
    assert_eq!(look(recent, &phone).await.heads, [None, None]);
    recent.raise(&[of(Class::Messages, 9)]).await.unwrap();
    assert_eq!(look(recent, &phone).await.heads, [Some(9), None]);
    // Numbers that a script would take for equal.
    let large = (1 << 53) + 1;
    recent.raise(&[of(Class::Messages, 10), of(Class::Receipts, large)]).await.unwrap();
    recent.raise(&[of(Class::Receipts, large - 1), of(Class::Messages, 9)]).await.unwrap();
    assert_eq!(look(recent, &phone).await.heads, [Some(10), Some(large)]);
    let at = look(recent, &phone).await.now;
    let confirmed = Confirmed { device: phone.clone(), epoch: EPOCH, heads: [11, 3], acked: [0, 0], at };
    recent.confirm(&[confirmed]).await.unwrap();
    assert_eq!(look(recent, &phone).await.heads, [Some(11), Some(large)]);
}

async fn a_confirmation_counts_for_a_while(recent: &dyn Recent) {
    let (phone, laptop) = (device("hal/phone"), device("hal/laptop"));
    let before = look(recent, &phone).await;
    assert_eq!(before.acked, None);
    let of = |at| Confirmed { device: phone.clone(), epoch: EPOCH, heads: [7, 0], acked: [6, 0], at };
    recent.confirm(&[of(before.now)]).await.unwrap();
    let after = look(recent, &phone).await;
    assert_eq!((after.heads, after.acked), ([Some(7), Some(0)], Some([6, 0])));
    assert!(after.now >= before.now);
    assert_eq!(look(recent, &laptop).await.acked, None, "it is of one device");
    tokio::time::sleep(LATELY + Duration::from_millis(20)).await;
    assert_eq!(look(recent, &phone).await.acked, None);
    // It counts from the look on, however late it comes.
    recent.confirm(&[of(before.now)]).await.unwrap();
    assert_eq!(look(recent, &phone).await.acked, None);
    assert_eq!(recent.look(&phone, EPOCH, LIFETIME).await.unwrap().acked, Some([6, 0]));
    // The clock was set back since.
    recent.confirm(&[of(before.now + 3_600_000)]).await.unwrap();
    assert_eq!(recent.look(&phone, EPOCH, LIFETIME).await.unwrap().acked, None);
}

async fn epochs_know_nothing_of_each_other(recent: &dyn Recent) {
    let phone = device("ida/phone");
    let now = look(recent, &phone).await.now;
    let of_another = Confirmed { device: phone.clone(), epoch: EPOCH + 1, heads: [5, 5], acked: [5, 5], at: now };
    recent.confirm(&[of_another]).await.unwrap();
    recent.raise(&[risen(&phone, EPOCH + 1, Class::Messages, 6)]).await.unwrap();
    let known = look(recent, &phone).await;
    assert_eq!((known.heads, known.acked), ([None, None], None));
}

async fn results_are_of_their_names(recent: &dyn Recent) {
    let name = |of: &str, epoch, client_msg_id| Name { device: device(of), epoch, client_msg_id };
    let sent = |seq| Sent {
        server_msg_id: u64::MAX,
        conversation: ConversationId::new("jo:kim").unwrap(),
        seq,
        time_ms: 1_700_000_000_000,
        owed: Arc::default(),
        places: Vec::new(),
    };
    let stored = |seq| Stored { hash: u64::MAX - seq, sent: sent(seq) };
    let all = [(name("jo/phone", EPOCH, 1), stored(1)), (name("jo/phone", EPOCH, u64::MAX), stored(2))];
    recent.remember(&all).await.unwrap();
    let asked = [
        name("jo/phone", EPOCH, 2),
        name("jo/phone", EPOCH, u64::MAX),
        name("jo/laptop", EPOCH, 1),
        name("jo/phone", EPOCH + 1, 1),
        name("kim/phone", EPOCH, 1),
        name("jo/phone", EPOCH, 1),
    ];
    let known = recent.recall(&asked).await.unwrap();
    assert_eq!(known, [None, Some(stored(2)), None, None, None, Some(stored(1))]);
}
