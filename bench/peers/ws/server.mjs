// npm's ws, as its own examples use it: an echo, and a broadcast over a set of sockets.
import { WebSocketServer } from "ws";

const members = new Set();
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 4096, perMessageDeflate: false });

server.on("connection", (socket, request) => {
  // The load generator judges how a connection ends.
  socket.on("error", () => {});
  switch (request.url) {
    case "/fan":
      members.add(socket);
      socket.on("close", () => members.delete(socket));
      socket.send("joined");
      break;
    case "/publish":
      socket.on("message", (data, binary) => {
        for (const member of members) member.send(data, { binary });
      });
      break;
    default:
      socket.on("message", (data, binary) => socket.send(data, { binary }));
  }
});
