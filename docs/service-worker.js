// What an application's service worker does with notifierd's pushes: it shows each as a notification, and opens the
// office's page when that is clicked. Serve it from the application's root: its folder is how far it reaches.
// docs/subscribe.js is its other half. `make test-system` tries both, as they stand here, in a real browser.
//
// A push is JSON. icon and badge are missing if push.icon and push.badge are "" in config.toml:
//
//   { title, body, icon, badge, requireInteraction: true,
//     data: { type: "deadline_alert", office_id, office_name, renewal_count, assessment_count, push_threshold_days } }
//
// With push.declarative, web_push and notification are there, too. A browser that knows them does not call this.

self.addEventListener("push", (event) => {
  const { title, ...options } = event.data.json();
  const tag = `${options.data.type}-${options.data.office_id}`;
  // An office has one notification: a later one takes the place of that before, and is heard like the first.
  event.waitUntil(self.registration.showNotification(title, { ...options, tag, renotify: true }));
});

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(bringUp(pageOf(event.notification.data)));
});

// Your application's own address for what is due in an office.
function pageOf(data) {
  return new URL(`/?office=${data.office_id}`, self.location.origin).href;
}

// A window that already shows the page comes to the front. No other is led there: somebody may be writing in it.
async function bringUp(url) {
  const windows = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  const shown = windows.find((window) => window.url === url);
  return shown ? shown.focus() : self.clients.openWindow(url);
}
