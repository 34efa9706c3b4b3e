// Asks the worker. What is not a mere question carries a token that no other site can read.

let session = null;

export async function begin() {
  session = await ask("/api/session");
  return session;
}

export async function ask(path, body) {
  const options = { headers: { Accept: "application/json" } };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
    options.headers["X-Unstale-CSRF"] = session.csrf;
  }
  const response = await fetch(path, options);
  if (response.status === 401) location.reload(); // the session has expired
  const text = await response.text();
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(text.trim() || `the worker answered ${response.status}`);
  }
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// Calls `on.history` once and `on.now` each second; the browser connects again by itself.
export function follow(on) {
  const source = new EventSource("/api/feed");
  source.addEventListener("history", (event) => on.history(JSON.parse(event.data)));
  source.addEventListener("now", (event) => on.now(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    on.lost();
    if (source.readyState === EventSource.CLOSED) setTimeout(() => follow(on), 3000);
  });
}
