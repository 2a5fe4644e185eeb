// How a page of the application subscribes this browser to notifierd's pushes, for docs/service-worker.js to show.

// Resolves with what the view notifierd.devices needs of a device: endpoint, p256dh and auth. Send them to your server.
// publicKey is what `notifierd vapid` prints. The first time it must be called from a click, as browsers ask for the
// permission only then. Call it on each later visit, too: a browser may end a subscription at any time, and this
// resolves with the one there is, or with a new one.
export async function subscribe(publicKey) {
  await navigator.serviceWorker.register("/service-worker.js");
  const { pushManager } = await navigator.serviceWorker.ready;
  const subscription = await pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: publicKey });
  const { endpoint, keys } = subscription.toJSON();
  return { endpoint, p256dh: keys.p256dh, auth: keys.auth };
}

// The server need not be told: the push service answers notifierd's next push by 410, and the device's row goes.
export async function unsubscribe() {
  const { pushManager } = await navigator.serviceWorker.ready;
  const subscription = await pushManager.getSubscription();
  await subscription?.unsubscribe();
}
