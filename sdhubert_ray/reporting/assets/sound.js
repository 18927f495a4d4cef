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
    samples.set(
      number,
      decoding.then((decoded) => decoded.getChannelData(0)),
    );
  }
  return samples.get(number);
}

const once = (element, name) => new Promise((done) => element.addEventListener(name, done, { once: true }));
const turns = new WeakMap(); // of each audio element, how often it was told to do something else

/** Stop what `playInterval` plays; what waits for it learns that it has not come to its end. */
function stopInterval(audio) {
  turns.set(audio, (turns.get(audio) ?? 0) + 1);
  audio.pause();
}

/** Play seconds `start` to `end`, and stop there by a timer that looks at the element's own clock, also in a page that
 * is not seen. Tells whether it came to the end, and was not stopped before. */
async function playInterval(audio, start, end) {
  stopInterval(audio);
  const mine = turns.get(audio);
  audio.currentTime = start;
  try {
    await audio.play();
  } catch (error) {
    if (error.name === "AbortError") return false; // stopped before it began
    throw error;
  }
  return new Promise((done) => {
    const look = () => {
      if (mine !== turns.get(audio) || (audio.paused && !audio.ended)) return done(false);
      const left = audio.ended ? 0 : (1000 * (end - audio.currentTime)) / audio.playbackRate;
      if (left > 2) return setTimeout(look, Math.max(1, Math.min(left - 2, 50)));
      audio.pause();
      audio.currentTime = end;
      return done(true);
    };
    look();
  });
}

const clip = document.getElementById("clip");
let clipUrl = null;
let clipNumber = null;
const stopClip = () => stopInterval(clip);

/** Play seconds `start` to `end` of a recording, as `playInterval`. */
async function playClip(number, start, end) {
  stopClip();
  const mine = turns.get(clip);
  if (clipNumber !== number) {
    const blob = await soundOf(number);
    if (mine !== turns.get(clip)) return false;
    if (clipUrl) URL.revokeObjectURL(clipUrl);
    clipUrl = URL.createObjectURL(blob);
    clipNumber = number;
    const ready = once(clip, "loadedmetadata");
    clip.src = clipUrl;
    await ready;
    if (mine !== turns.get(clip)) return false;
  }
  return playInterval(clip, start, end);
}
