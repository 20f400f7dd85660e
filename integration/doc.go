// Package integration tests websocket_proxy from outside: through a real Caddy
// process, with WebSocket implementations that share no code with it.
//
// The tests build ../cmd/caddy once. INTEGRATION_RACE=1 builds it with the race
// detector; INTEGRATION_CADDY names a binary to test instead, such as one that
// xcaddy has made, with package http2. The tests with Node need the packages of node/package.json:
// `npm ci` in that folder, or in a copy of it that NODE_WS_DIR names. Without
// them they are skipped, but fail where CI is set.
package integration
