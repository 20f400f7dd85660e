package websocketproxy

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// mistakes are configurations that are refused, with the whole error.
var mistakes = map[string]struct{ config, want string }{
	"no upstreams": {
		`{}`,
		"upstreams: none given; at least one is needed",
	},
	"upstream is null": {
		`{"upstreams": [{"dial": "localhost:9000"}, null]}`,
		"upstreams[1]: dial: is empty; give an address such as localhost:9000",
	},
	"dial is empty": {
		`{"upstreams": [{"weight": 1}]}`,
		"upstreams[0]: dial: is empty; give an address such as localhost:9000",
	},
	"dial has no port": {
		`{"upstreams": [{"dial": "localhost:9000"}, {"dial": "localhost"}]}`,
		"upstreams[1]: dial: localhost has no port",
	},
	"dial has port zero": {
		`{"upstreams": [{"dial": "localhost:0"}]}`,
		"upstreams[0]: dial: localhost:0 has no port",
	},
	"dial has a bad port": {
		`{"upstreams": [{"dial": "localhost:bad"}]}`,
		`upstreams[0]: dial: invalid start port: strconv.ParseUint: parsing "bad": invalid syntax`,
	},
	"dial has a port that is too high": {
		`{"upstreams": [{"dial": "localhost:65536"}]}`,
		`upstreams[0]: dial: invalid start port: strconv.ParseUint: parsing "65536": value out of range`,
	},
	"dial has a range of ports": {
		`{"upstreams": [{"dial": "localhost:9000-9002"}]}`,
		"upstreams[0]: dial: localhost:9000-9002 names 3 ports; an upstream is exactly one",
	},
	"dial is a URL": {
		`{"upstreams": [{"dial": "ws://localhost:9000"}]}`,
		"upstreams[0]: dial: ws://localhost:9000 is a URL; write host:port, and enable TLS in the transport",
	},
	"dial has a path": {
		`{"upstreams": [{"dial": "localhost:9000/ws"}]}`,
		"upstreams[0]: dial: localhost:9000/ws has a path; write host:port, and change paths with a rewrite handler",
	},
	"dial is not a stream": {
		`{"upstreams": [{"dial": "udp/localhost:9000"}]}`,
		"upstreams[0]: dial: a tunnel needs tcp or unix, not udp",
	},
	"dial is a unix socket for packets": {
		`{"upstreams": [{"dial": "unixgram//run/ws.sock"}]}`,
		"upstreams[0]: dial: a tunnel needs tcp or unix, not unixgram",
	},
	"dial is h2c": {
		`{"upstreams": [{"dial": "unix+h2c//run/ws.sock"}]}`,
		"upstreams[0]: dial: a tunnel needs tcp or unix, not unix+h2c",
	},
	"weight is negative": {
		`{"upstreams": [{"dial": "localhost:9000", "weight": -1}]}`,
		"upstreams[0]: weight: -1 is not between 1 and 65536",
	},
	"weight is too large": {
		`{"upstreams": [{"dial": "localhost:9000", "weight": 65537}]}`,
		"upstreams[0]: weight: 65537 is not between 1 and 65536",
	},
	"weight with a policy of another module": {
		`{"upstreams": [{"dial": "localhost:9000"}, {"dial": "localhost:9001", "weight": 2}],
			"load_balancing": {"selection_policy": {"policy": "first"}}}`,
		"upstreams[1]: weight: has no effect with this selection policy; " +
			"use a policy of websocket_proxy itself, such as least_conn or cookie, or leave it out",
	},
	"rebalance with a policy of another module": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "first"}, "rebalance": {"share": 0.1}}}`,
		"load_balancing.rebalance: has no effect with this selection policy, which may send clients straight back; " +
			"use a policy of websocket_proxy itself, such as least_conn, or leave it out",
	},
	"rebalance with a policy that hashes": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "header", "field": "X"}, "rebalance": {"share": 0.1}}}`,
		"load_balancing.rebalance: has no effect with header, which sends clients straight back; " +
			"use cookie or a policy that is not sticky, or leave it out",
	},
	"rebalance with cookies of which nothing is said": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "cookie"}, "rebalance": {"share": 0.1}}}`,
		"load_balancing.rebalance: needs to know which clients of a cookie can be moved; " +
			"say in sticky_session what opens a session, such as query !sid",
	},
	"sticky_session says nothing": {
		`{"upstreams": [{"dial": "a:1"}],
			"load_balancing": {"selection_policy": {"policy": "cookie"}, "sticky_session": [{"query": "!sid"}, {}]}}`,
		"load_balancing.sticky_session[1]: says nothing; give a path, such as */negotiate, or a parameter, such as !sid",
	},
	"sticky_session has a bad pattern": {
		`{"upstreams": [{"dial": "a:1"}],
			"load_balancing": {"selection_policy": {"policy": "cookie"}, "sticky_session": [{"query": "!sid"}, {"path": "/[a-z"}]}}`,
		"load_balancing.sticky_session[1]: path: /[a-z is not a pattern, and matches nothing; " +
			"end each [ by a ], or write \\[ for the character",
	},
	"sticky_session without a sticky policy": {
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"sticky_session": [{"query": "!sid"}]}}`,
		"load_balancing.sticky_session: has no effect with least_conn, which is not sticky; " +
			"use cookie or another sticky policy, or leave it out",
	},
	"fallback of another module": {
		`{"upstreams": [{"dial": "a:1"}],
			"load_balancing": {"selection_policy": {"policy": "cookie", "fallback": {"policy": "theirs"}}}}`,
		"load_balancing.selection_policy: fallback: newcomers cannot go by \"theirs\"; use least_conn, round_robin, " +
			"weighted_round_robin, random_choose, random, first, or another sticky policy",
	},
	"rooms for newcomers": {
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy":
			{"policy": "cookie", "fallback": {"policy": "hash", "key": "{http.request.uri.query.room}"}}}}`,
		"load_balancing.selection_policy: fallback: newcomers cannot go by \"hash\"; use least_conn, round_robin, " +
			"weighted_round_robin, random_choose, random, first, or another sticky policy",
	},
	"fallback with a mistake": {
		`{"upstreams": [{"dial": "a:1"}],
			"load_balancing": {"selection_policy": {"policy": "cookie", "fallback": {"policy": "random_choose", "choose": 1}}}}`,
		"load_balancing.selection_policy: choose: must be at least 2, not 1; `random` is a policy of its own",
	},
	"reverse_proxy's policy": {
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": {"policy": "websocket_proxy", "pool": "a"}}}`,
		"load_balancing.selection_policy: websocket_proxy is for reverse_proxy; give this handler a policy itself, such as cookie",
	},
	"rebalance more than all": {
		`{"upstreams": [{"dial": "localhost:9000"}], "load_balancing": {"rebalance": {"share": 10}}}`,
		"load_balancing.rebalance.share: 10 is more than 1",
	},
	"rebalance at intervals that are too short": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"rebalance": {"share": 0.1, "interval": "100ms"}}}`,
		"load_balancing.rebalance.interval: is shorter than a second",
	},
	"rebalance at negative intervals": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"rebalance": {"share": 0.1, "interval": -1}}}`,
		"load_balancing.rebalance.interval: must not be negative",
	},
	"rebalance at intervals, but not how much": {
		`{"upstreams": [{"dial": "localhost:9000"}], "load_balancing": {"rebalance": {"interval": "10s"}}}`,
		"load_balancing.rebalance.interval: has no effect without share; set that too",
	},
	"weight twice": {
		`{"upstreams": [{"dial": "localhost:9000", "weight": 2}],
			"load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": [2]}}}`,
		"upstreams[0]: weight: is given here and in weighted_round_robin; choose one",
	},
	"too few weights": {
		`{"upstreams": [{"dial": "localhost:9000"}, {"dial": "localhost:9001"}],
			"load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": [2]}}}`,
		"load_balancing.selection_policy: weights: 1 for 2 upstreams; give one for each",
	},
	"weights are missing": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "weighted_round_robin"}}}`,
		"load_balancing.selection_policy: weights: 0 for 1 upstreams; give one for each",
	},
	"too many weights": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": [2, 3]}}}`,
		"load_balancing.selection_policy: weights: 2 for 1 upstreams; give one for each",
	},
	"one of the weights is zero": {
		`{"upstreams": [{"dial": "localhost:9000"}, {"dial": "localhost:9001"}],
			"load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": [1, 0]}}}`,
		"load_balancing.selection_policy: weights[1]: 0 is not between 1 and 65536",
	},
	"weights of another policy": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "round_robin", "weights": [1]}}}`,
		"load_balancing.selection_policy: round_robin has no option `weights`; give each upstream its weight",
	},
	"choose of another policy": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "least_conn", "choose": 2}}}`,
		"load_balancing.selection_policy: least_conn has no option `choose`",
	},
	"least_conn with a key": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "least_conn", "key": "{http.request.host}"}}}`,
		"load_balancing.selection_policy: least_conn has no option `key`",
	},
	"hash without a key": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "hash", "balance": 125}}}`,
		"load_balancing.selection_policy: key: is empty; give a placeholder, such as {http.request.uri.query.room}",
	},
	"hash with weights": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "hash", "key": "{http.request.host}", "weights": [1]}}}`,
		"load_balancing.selection_policy: hash has no option `weights`; give each upstream its weight",
	},
	"hash with a number of choices": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "hash", "key": "{http.request.host}", "choose": 2}}}`,
		"load_balancing.selection_policy: hash has no option `choose`; give it to the fallback",
	},
	"hash that is balanced below its share": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "hash", "key": "{http.request.host}", "balance": 99}}}`,
		"load_balancing.selection_policy: balance: 99 is not between 100 and 10000 percent of an upstream's fair share",
	},
	"hash that falls back to another module": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "hash", "key": "{http.request.host}", "fallback": {"policy": "cookie"}}}}`,
		"load_balancing.selection_policy: fallback: is not least_conn, round_robin, weighted_round_robin or random_choose",
	},
	"hash that falls back badly": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "hash", "key": "{http.request.host}", "fallback": {"policy": "random_choose", "choose": 1}}}}`,
		"load_balancing.selection_policy: fallback: choose: must be at least 2, not 1; `random` is a policy of its own",
	},
	"choose one": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "random_choose", "choose": 1}}}`,
		"load_balancing.selection_policy: choose: must be at least 2, not 1; `random` is a policy of its own",
	},
	"choose is no number": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "random_choose", "choose": "2"}}}`,
		"load_balancing.selection_policy: choose: must be a whole number, and is a string",
	},
	"unknown option of a policy of our own": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "least_conn", "field": "X"}}}`,
		`load_balancing.selection_policy: json: unknown field "field"`,
	},
	"unknown policy": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "most_conn"}}}`,
		"load_balancing.selection_policy: loading module 'most_conn': " +
			"unknown module: http.reverse_proxy.selection_policies.most_conn",
	},
	"policy without a name": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {}}}`,
		"load_balancing.selection_policy: module name not specified with key 'policy' in map[]",
	},
	"policy is no object": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": "least_conn"}}`,
		"load_balancing.selection_policy: must be an object, and is a string",
	},
	"a sticky policy with a mistake": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"load_balancing": {"selection_policy": {"policy": "header"}}}`,
		"load_balancing.selection_policy: field: is empty; name the header field whose value tells clients apart",
	},
	"retries are negative": {
		`{"upstreams": [{"dial": "localhost:9000"}], "load_balancing": {"retries": -1}}`,
		"load_balancing.retries: must not be negative; 0 means never",
	},
	"try_interval is negative": {
		`{"upstreams": [{"dial": "localhost:9000"}], "load_balancing": {"try_interval": -1}}`,
		"load_balancing.try_interval: must not be negative",
	},
	"jitter is more than one": {
		`{"upstreams": [{"dial": "localhost:9000"}], "timeouts": {"max_lifetime": "1h", "lifetime_jitter": 1.1}}`,
		"timeouts.lifetime_jitter: 1.1 is more than 1",
	},
	"jitter without max_lifetime": {
		`{"upstreams": [{"dial": "localhost:9000"}], "timeouts": {"lifetime_jitter": 0.5}}`,
		"timeouts.lifetime_jitter: has no effect without max_lifetime; set that too",
	},
	"jitter with max_lifetime off": {
		`{"upstreams": [{"dial": "localhost:9000"}], "timeouts": {"max_lifetime": -1, "lifetime_jitter": 0.5}}`,
		"timeouts.lifetime_jitter: has no effect without max_lifetime; set that too",
	},
	"ping_timeout without ping_interval": {
		`{"upstreams": [{"dial": "localhost:9000"}], "keepalive": {"ping_timeout": "1m"}}`,
		"keepalive.ping_timeout: has no effect without ping_interval; set that too",
	},
	"ping_timeout off without ping_interval": {
		`{"upstreams": [{"dial": "localhost:9000"}], "keepalive": {"ping_interval": -1, "ping_timeout": -1}}`,
		"keepalive.ping_timeout: has no effect without ping_interval; set that too",
	},
	"ping_timeout is too short": {
		`{"upstreams": [{"dial": "localhost:9000"}], "keepalive": {"ping_interval": "30s", "ping_timeout": "29s"}}`,
		"keepalive.ping_timeout: is shorter than ping_interval",
	},
	"max_message_rate is too large": {
		`{"upstreams": [{"dial": "localhost:9000"}], "limits": {"max_message_rate": 1000001}}`,
		"limits.max_message_rate: 1000001 is more than 1000000",
	},
	"message_burst is too large": {
		`{"upstreams": [{"dial": "localhost:9000"}], "limits": {"max_message_rate": 1, "message_burst": 1000001}}`,
		"limits.message_burst: 1000001 is not between 1 and 1000000",
	},
	"message_burst is negative": {
		`{"upstreams": [{"dial": "localhost:9000"}], "limits": {"max_message_rate": 1, "message_burst": -1}}`,
		"limits.message_burst: -1 is not between 1 and 1000000",
	},
	"message_burst without max_message_rate": {
		`{"upstreams": [{"dial": "localhost:9000"}], "limits": {"max_message_rate": -1, "message_burst": 5}}`,
		"limits.message_burst: has no effect without max_message_rate; set that too",
	},
	"on_message_rate is unknown": {
		`{"upstreams": [{"dial": "localhost:9000"}], "limits": {"max_message_rate": 1, "on_message_rate": "drop"}}`,
		`limits.on_message_rate: "drop" is neither delay nor close`,
	},
	"on_message_rate without max_message_rate": {
		`{"upstreams": [{"dial": "localhost:9000"}], "limits": {"on_message_rate": "close"}}`,
		"limits.on_message_rate: has no effect without max_message_rate; set that too",
	},
	"origin is malformed": {
		`{"upstreams": [{"dial": "localhost:9000"}], "access": {"origins": ["same", "example.com"]}}`,
		`access.origins[1]: "example.com" is not an origin; ` +
			"write same, null, file://, https://example.com or https://*.example.com",
	},
	"origins are separated by commas": {
		`{"upstreams": [{"dial": "localhost:9000"}], "access": {"origins": ["https://a.example,", "https://b.example"]}}`,
		`access.origins[0]: "https://a.example," is not an origin`,
	},
	"subprotocol is no token": {
		`{"upstreams": [{"dial": "localhost:9000"}], "access": {"subprotocols": ["chat", "a b"]}}`,
		`access.subprotocols[1]: "a b" is not a token`,
	},
	"subprotocol is empty": {
		`{"upstreams": [{"dial": "localhost:9000"}], "access": {"subprotocols": [""]}}`,
		`access.subprotocols[0]: "" is not a token`,
	},
	"trusted proxy is no range": {
		`{"upstreams": [{"dial": "localhost:9000"}], "trusted_proxies": ["10.0.0.0/8", "10.0.0.0/33"]}`,
		`trusted_proxies[1]: "10.0.0.0/33" is neither an address nor a range of some, such as 10.0.0.0/8`,
	},
	"trusted proxy is a word": {
		`{"upstreams": [{"dial": "localhost:9000"}], "trusted_proxies": ["private_ranges"]}`,
		`trusted_proxies[0]: "private_ranges" is neither an address nor a range of some, such as 10.0.0.0/8`,
	},
	"trusted proxies and a limit for clients": {
		`{"upstreams": [{"dial": "localhost:9000"}], "trusted_proxies": ["10.0.0.0/8"], "limits": {"max_tunnels_per_client": 5}}`,
		"trusted_proxies: does not count for max_tunnels_per_client, which would take each of these proxies for one client",
	},
	"header operation is malformed": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"headers": {"request": {"replace": {"X-A": [{"search_regexp": "(", "replace": "b"}]}}}}`,
		"headers: replacement 0 for header field 'X-A': error parsing regexp: missing closing ): `(`",
	},
	"header operation on a field of the handshake": {
		`{"upstreams": [{"dial": "localhost:9000"}], "headers": {"request": {"set": {"upgrade": ["websocket"]}}}}`,
		"headers: Upgrade cannot be changed in the request, as the handshake decides about it; remove it",
	},
	"a field of the handshake is deleted": {
		`{"upstreams": [{"dial": "localhost:9000"}], "headers": {"request": {"delete": ["sec-websocket-key"]}}}`,
		"headers: Sec-WebSocket-Key cannot be changed in the request, as the handshake decides about it; remove it",
	},
	"a field of the handshake is added": {
		`{"upstreams": [{"dial": "localhost:9000"}], "headers": {"request": {"add": {"Connection": ["a"]}}}}`,
		"headers: Connection cannot be changed in the request, as the handshake decides about it; remove it",
	},
	"a field of the answer is replaced": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"headers": {"response": {"replace": {"Sec-WebSocket-Accept": [{"search": "a", "replace": "b"}]}}}}`,
		"headers: Sec-WebSocket-Accept cannot be changed in the answer, as the handshake decides about it; remove it",
	},
	"unknown transport": {
		`{"upstreams": [{"dial": "localhost:9000"}], "transport": {"protocol": "carrier_pigeon"}}`,
		"transport: loading module 'carrier_pigeon': unknown module: http.reverse_proxy.transport.carrier_pigeon",
	},
	"transport without a name": {
		`{"upstreams": [{"dial": "localhost:9000"}], "transport": {}}`,
		"transport: module name not specified with key 'protocol' in map[]",
	},
	"transport versions": {
		`{"upstreams": [{"dial": "localhost:9000"}], "transport": {"protocol": "http", "versions": ["2"]}}`,
		"transport.versions: a tunnel needs HTTP/1.1 to the upstream; leave it out",
	},
	"transport h2c": {
		`{"upstreams": [{"dial": "localhost:9000"}], "transport": {"protocol": "http", "versions": ["h2c", "2"]}}`,
		"transport.versions: a tunnel needs HTTP/1.1 to the upstream; leave it out",
	},
	"transport proxy": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"transport": {"protocol": "http", "network_proxy": {"from": "none"}}}`,
		"transport.network_proxy: tunnels are dialed directly; leave it out",
	},
	"transport proxy, the old way": {
		`{"upstreams": [{"dial": "localhost:9000"}],
			"transport": {"protocol": "http", "forward_proxy_url": "http://localhost:3128"}}`,
		"transport.forward_proxy_url: tunnels are dialed directly; leave it out",
	},
	"transport read_timeout": {
		`{"upstreams": [{"dial": "localhost:9000"}], "transport": {"protocol": "http", "read_timeout": "1m"}}`,
		"transport.read_timeout: use idle_timeout of websocket_proxy",
	},
	"transport write_timeout": {
		`{"upstreams": [{"dial": "localhost:9000"}], "transport": {"protocol": "http", "write_timeout": "1m"}}`,
		"transport.write_timeout: use write_timeout of websocket_proxy, outside the transport",
	},
	"transport max_conns_per_host": {
		`{"upstreams": [{"dial": "localhost:9000"}], "transport": {"protocol": "http", "max_conns_per_host": 5}}`,
		"transport.max_conns_per_host: use max_tunnels of an upstream",
	},
	"the queue's timeout is negative": {
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"queue": {"timeout": -1}}}`,
		"load_balancing.queue.timeout: must not be negative; a negative size means that nobody waits",
	},
	"a queue that is off has a timeout": {
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"queue": {"size": -1, "timeout": "1s"}}}`,
		"load_balancing.queue.timeout: has no effect without a size; set that too",
	},
	"no number of handshakes": {
		`{"upstreams": [{"dial": "a:1", "max_handshakes": "many"}]}`,
		`upstreams[0]: max_handshakes: is neither a number nor "auto"`,
	},
	"no rate of handshakes": {
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"handshake_rate": {"burst": 5}}}`,
		"load_balancing.handshake_rate.per_second: is missing; say how many, or -1 for no limit",
	},
	"a rate without end": {
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"handshake_rate": {"per_second": 10000000}}}`,
		"load_balancing.handshake_rate.per_second: 10000000 is more than 1000000",
	},
	"a negative burst": {
		`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1", "handshake_rate": {"per_second": 5, "burst": -1}}]}`,
		"upstreams[1]: handshake_rate.burst: must not be negative; leave it out for a tenth of per_second",
	},
	"a burst without end": {
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"handshake_rate": {"per_second": 5, "burst": 10000000}}}`,
		"load_balancing.handshake_rate.burst: 10000000 is more than 1000000",
	},
	"a burst of a rate that is off": {
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"handshake_rate": {"per_second": -1, "burst": 5}}}`,
		"load_balancing.handshake_rate.burst: has no effect without a limit; set per_second too",
	},
	"retry_close without a queue": {
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"retry_close": 5, "queue": {"size": -1}}}`,
		"load_balancing.retry_close: has no effect without a queue; set that too, or leave it out",
	},
	"retry_close of a policy of another module": {
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": {"policy": "first"}, "retry_close": 5}}`,
		"load_balancing.retry_close: has no effect with this selection policy, with which nobody waits; leave it out",
	},
	"queue with a policy of another module": {
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": {"policy": "first"}, "queue": {"size": 10}}}`,
		"load_balancing.queue: has no effect with this selection policy, of which is not known whom it would choose; leave it out",
	},
	"slow_start with a policy of another module": {
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": {"policy": "first"}, "slow_start": "10s"}}`,
		"load_balancing.slow_start: has no effect with this selection policy, which would send clients somewhere else meanwhile; leave it out",
	},
	"slow_start is too short": {
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"slow_start": "999ms"}}`,
		"load_balancing.slow_start: is shorter than a second",
	},
	"max_fails without fail_duration": {
		`{"upstreams": [{"dial": "a:1"}], "health_checks": {"passive": {"fail_duration": -1, "max_fails": 5}}}`,
		"health_checks.passive.max_fails: has no effect as fail_duration is off; set that too",
	},
	"max_fails is too high": {
		`{"upstreams": [{"dial": "a:1"}], "health_checks": {"passive": {"max_fails": 1001}}}`,
		"health_checks.passive.max_fails: 1001 is more than 1000",
	},
}

func TestMistakesAreRefusedWithTheirPath(t *testing.T) {
	for name, mistake := range mistakes {
		t.Run(name, func(t *testing.T) {
			err := provisionJSON(t, mistake.config)
			if err == nil {
				t.Fatalf("no error, want %s", mistake.want)
			}
			if got := err.Error(); !strings.HasPrefix(got, mistake.want) {
				t.Errorf("got  %s\nwant %s", got, mistake.want)
			}
		})
	}
}

func TestValuesOfAnotherKindAreRefusedWithTheirPath(t *testing.T) {
	for config, want := range map[string]string{
		`{"load_balancing": {"handshake_rate": 5}}`:               "load_balancing.handshake_rate: must be an object, and is a number",
		`{"load_balancing": {"load_report": "x"}}`:                "load_balancing.load_report: must be an object, and is a string",
		`{"load_balancing": {"sticky_session": {"path": "*/a"}}}`: "load_balancing.sticky_session: must be an array, and is an object",
		`{"load_balancing": {"retry_close": true}}`:               "load_balancing.retry_close: must be a whole number, and is a bool",
		`{"load_balancing": {"retry_close": 0.5}}`:                "load_balancing.retry_close: must be a whole number, and is a number 0.5",
		`{"upstreams": [{"dial": ["a:1"]}]}`:                      "upstreams.dial: must be a string, and is an array",
		`{"health_checks": {"passive": {"no_witnesses": 1}}}`:     "health_checks.passive.no_witnesses: must be true or false, and is a number",
		`{"timeouts": {"lifetime_jitter": "10%"}}`:                "timeouts.lifetime_jitter: must be a number, and is a string",
		`{"load_balancing": {"nonsense": 1}}`:                     `json: unknown field "nonsense"`,
	} {
		if err := caddy.StrictUnmarshalJSON([]byte(config), new(Handler)); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", config, err, want)
		}
	}
}

func TestJitterMustBeANumber(t *testing.T) {
	h := &Handler{
		Upstreams: []*Upstream{{Dial: "localhost:9000"}},
		Timeouts:  &Timeouts{MaxLifetime: caddy.Duration(time.Hour), LifetimeJitter: math.NaN()},
	}
	ctx, cancel := newContext()
	defer cancel()
	if err := h.Provision(ctx); err == nil {
		t.Error("NaN was taken")
	}
	if err := h.Cleanup(); err != nil {
		t.Error(err)
	}
	expectNothingHeld(t)
}
