#!/bin/sh
# The preStop of an application's pod: has every Caddy send no more tunnels to
# this pod, and returns when none is left. It needs curl 7.76 or later.
#
#   ADDRESS       the pod's own address, as `caddy websockets list` has it
#   ADMIN         where the Caddys are asked: URLs, with spaces between them
#   ADMIN_TLS     a folder with ca.crt, tls.crt and tls.key for https (optional)
#   EVICT_PERIOD  seconds over which tunnels are ended, with a Close that asks
#                 their clients to come back. Without it they are left to end
#                 by themselves; a `dynamic` source needs evict_period off, too
#   TIMEOUT       seconds after which this gives up (60)
#
# The state is evict, or maint without EVICT_PERIOD. It is not drain: with that,
# clients that a sticky policy knows to belong here would still be let in, and the
# pod is about to end under them.
#
# It fails if a Caddy cannot be asked or does not know the address, after it
# has done what it can at the others; and if it gives up.
set -u
: "${ADDRESS:?is not set}" "${ADMIN:?is not set}"
timeout=${TIMEOUT:-60}
deadline=$(($(date +%s) + timeout))

say() {
	echo "drain: $*" >&2
}

# ask does a request and leaves in $answer what came, or what went wrong.
ask() {
	if [ -n "${ADMIN_TLS:-}" ]; then
		set -- --cacert "$ADMIN_TLS/ca.crt" --cert "$ADMIN_TLS/tls.crt" --key "$ADMIN_TLS/tls.key" "$@"
	fi
	answer=$(curl --silent --show-error --fail-with-body --noproxy '*' --max-time 5 "$@" 2>&1)
}

# take_out sets the state at one Caddy. It expires, as another pod may get the
# address one day.
take_out() {
	state='"maint"'
	if [ -n "${EVICT_PERIOD:-}" ]; then
		state="\"evict\", \"period\": $EVICT_PERIOD"
	fi
	ask "$1/websocket_proxy/upstreams/state" --header 'Content-Type: application/json' --data \
		"{\"address\": \"$ADDRESS\", \"state\": $state, \"expires_in\": $((timeout + 60)), \"by\": \"preStop of $(uname -n)\"}"
}

# count leaves in $tunnels how many one Caddy has to this pod. One that it does
# not list has none.
count() {
	ask "$1/websocket_proxy/upstreams" || return
	tunnels=${answer#*"\"address\":\"$ADDRESS\","}
	if [ "$tunnels" = "$answer" ]; then
		tunnels=0
		return
	fi
	tunnels=${tunnels#*\"tunnels\":}
	tunnels=${tunnels%%[!0-9]*}
}

status=0
told=
for admin in $ADMIN; do
	# Once more, as a reload of Caddy replaces the endpoint.
	if take_out "$admin" || { sleep 1 && take_out "$admin"; }; then
		told="$told $admin"
	else
		say "$admin does not take out $ADDRESS: $answer"
		status=1
	fi
done

while :; do
	left=
	for admin in $told; do
		if ! count "$admin"; then
			left="$left; $admin does not say how many are left: $answer"
		elif [ "$tunnels" != 0 ]; then
			left="$left; $admin has $tunnels left"
		fi
	done
	if [ -z "$left" ]; then
		break
	fi
	if [ "$(date +%s)" -ge "$deadline" ]; then
		say "$ADDRESS is not empty after $timeout seconds$left"
		exit 1
	fi
	sleep 1
done
if [ -n "$told" ]; then
	say "$ADDRESS is empty"
fi
exit $status
