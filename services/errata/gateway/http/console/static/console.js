// What pages do beyond forms and links: times of the reader, busy buttons, and the chain's proof.
"use strict";

(() => {
  const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const calendar = { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" };
  const recent = (at) => at.toDateString() === new Date().toDateString();

  const showTimes = (root) => {
    for (const time of root.querySelectorAll("time[datetime]:not([title])")) {
      const at = new Date(time.dateTime);
      time.title = time.textContent;
      time.textContent = at.toLocaleString(undefined, recent(at) ? clock : calendar);
    }
  };

  const hex = (buffer) =>
    Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
  const bytes = (base64) => Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  const sha256 = (data) => crypto.subtle.digest("SHA-256", data);

  // H(n) = SHA-256(H(n−1) ‖ n as 8 bytes, big endian ‖ SHA-256(payload)); H(0) is 32 zero bytes.
  const extended = async (before, seq, payload) => {
    const whole = new Uint8Array(72);
    whole.set(new Uint8Array(before), 0);
    new DataView(whole.buffer).setBigUint64(32, BigInt(seq));
    whole.set(new Uint8Array(await sha256(payload)), 40);
    return sha256(whole);
  };

  const fetched = async (address, from) => {
    const answer = await fetch(`${address}?from=${from}`, { headers: { "HX-Request": "true" } });
    if (!answer.ok) throw new Error(`the gateway answered ${answer.status}; reload this page`);
    return answer.json();
  };

  const verify = async (address, progress) => {
    let digest = new Uint8Array(32).buffer;
    let seq = 0;
    let from = 0;
    let page;
    do {
      page = await fetched(address, seq + 1);
      for (const entry of page.entries) {
        if (!from && entry.seq !== 1) {
          // Earlier entries are in the archive: the chain is computed from this digest on.
          from = entry.seq;
          seq = entry.seq;
          digest = Uint8Array.from(entry.chain_digest.match(/../g), (b) => parseInt(b, 16)).buffer;
          continue;
        }
        from ||= 1;
        if (entry.seq !== seq + 1) throw new Error(`entry ${seq + 1} is missing`);
        seq = entry.seq;
        digest = await extended(digest, seq, bytes(entry.payload));
        if (hex(digest) !== entry.chain_digest) throw new Error(`entry ${seq} breaks the chain`);
      }
      progress.value = page.head_seq ? seq / page.head_seq : 1;
    } while (page.entries.length && seq < page.head_seq);
    if (seq < page.head_seq) throw new Error(`entries behind ${seq} are missing`);
    if (seq === page.head_seq && hex(digest) !== page.head_digest) {
      throw new Error("the last entry is not the log’s head");
    }
    return { from, seq, digest: hex(digest) };
  };

  const offerProof = (box, said) => {
    const button = box.querySelector("button");
    const progress = box.querySelector("progress");
    box.hidden = false;
    button.addEventListener("click", async () => {
      button.disabled = true;
      progress.hidden = false;
      said.className = "";
      said.textContent = "Verifying …";
      try {
        const { from, seq, digest } = await verify(box.dataset.chain, progress);
        said.className = "notice good";
        said.textContent = `This browser verified entries ${from} to ${seq}: every digest follows from the one before. Head ${digest.slice(0, 12)}.`;
      } catch (error) {
        said.className = "notice bad";
        said.textContent = `This browser could not verify the log: ${error.message}.`;
      }
      button.disabled = false;
    });
  };

  const markBusy = (event) => {
    const button = event.submitter;
    if (!button || event.target.method !== "post" || event.defaultPrevented) return;
    if (event.target.dataset.sent) {
      event.preventDefault(); // the form is on its way
      return;
    }
    event.target.dataset.sent = "yes";
    button.setAttribute("aria-busy", "true");
  };

  document.addEventListener("submit", markBusy);
  // A page from the history can be sent again.
  window.addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("form[data-sent]")) {
      delete form.dataset.sent;
      form.querySelector("[aria-busy]")?.removeAttribute("aria-busy");
    }
  });
  document.addEventListener("htmx:after:swap", () => showTimes(document));
  showTimes(document);
  const box = document.getElementById("verify");
  if (box && globalThis.crypto?.subtle) offerProof(box, document.getElementById("verified"));
})();
