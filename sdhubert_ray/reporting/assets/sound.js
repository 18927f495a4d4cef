// The sounds of the page: Ogg Opus in elements behind the scripts, taken out when they are needed.

const blobs = new Map();
/** The sound of a recording, by its number; null where there is none. */
async function soundOf(number) {
  if (data.recordings[number].silence !== null) return null;
  if (!blobs.has(number)) {
    const id = `sound-${number}`;
    if (!document.getElementById(id)) await parsed;
    const text = atob(JSON.parse(document.getElementById(id).textContent));
    const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
    blobs.set(number, new Blob([bytes], { type: "audio/ogg; codecs=opus" }));
  }
  return blobs.get(number);
}

const samples = new Map();
const KEPT_DECODED = 16;
/** Its samples at 16 kHz, Float32Array. */
async function samplesOf(number) {
  if (!samples.has(number)) {
    if (samples.size >= KEPT_DECODED) samples.delete(samples.keys().next().value);
    const blob = await soundOf(number);
    const decoding = blob.arrayBuffer().then((buffer) => new OfflineAudioContext(1, 1, 16000).decodeAudioData(buffer));
    samples.set(number, decoding.then((decoded) => decoded.getChannelData(0)));
  }
  return samples.get(number);
}

const clip = document.getElementById("clip");
let clipTurn = 0;
let clipUrl = null;
let clipNumber = null;
const once = (name) => new Promise((done) => clip.addEventListener(name, done, { once: true }));

function stopClip() {
  clipTurn++;
  clip.pause();
}

/** Play seconds `start` to `end` of a recording; tells whether it came to the end, and was not stopped before. */
async function playClip(number, start, end) {
  stopClip();
  const mine = clipTurn;
  if (clipNumber !== number) {
    const blob = await soundOf(number);
    if (mine !== clipTurn) return false;
    if (clipUrl) URL.revokeObjectURL(clipUrl);
    clipUrl = URL.createObjectURL(blob);
    clipNumber = number;
    const ready = once("loadedmetadata");
    clip.src = clipUrl;
    await ready;
    if (mine !== clipTurn) return false;
  }
  const there = once("seeked");
  clip.currentTime = start;
  await there;
  if (mine !== clipTurn) return false;
  try {
    await clip.play();
  } catch (error) {
    if (error.name === "AbortError") return false; // stopped before it began
    throw error;
  }
  return new Promise((done) => {
    const look = () => {
      if (mine !== clipTurn) return done(false);
      if (clip.currentTime < end && !clip.ended) return requestAnimationFrame(look);
      clip.pause();
      return done(true);
    };
    look();
  });
}
