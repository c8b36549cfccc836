// Requests to the server, and images from files and addresses.

// The JSON at an address; an Error with a message for the user where there is none.
export async function ask(address, options) {
  let reply;
  try {
    reply = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?");
  }
  const content = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(content.error || `The server answers with status ${reply.status}.`);
  return content;
}

// The options of a request that sends a file. The server looks at its content, whatever type the browser takes it for.
export function post(file, signal) {
  return { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" }, signal };
}

// An image file, upright; null where this browser does not know its type, or it is none.
export async function readFile(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    return null;
  }
}

export async function readUrl(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}
