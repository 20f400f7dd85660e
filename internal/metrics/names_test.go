package metrics

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// contract are the names of the metrics and their labels, as alerts, dashboards and the
// documentation know them. A change breaks those of users.
const contract = `
tunnels handler upstream
handshakes_in_progress handler
tunnels_opened_total handler protocol
upstream_tunnels_opened_total handler upstream
tunnels_closed_total handler reason
upstream_tunnels_closed_total handler upstream closed_by
tunnel_close_codes_total handler code from
tunnel_duration_seconds handler
handshake_duration_seconds handler outcome
upstream_handshake_duration_seconds upstream
upstream_handshakes_failed_total handler upstream cause
upstream_handshakes_abandoned_total handler upstream
handshake_retries_total handler
handshakes_without_key_total handler
handshakes_refused_total handler cause status
upstreams handler status
queue_length handler
queue_limit handler
queue_wait_seconds handler outcome
messages_total handler upstream direction
bytes_total handler upstream direction
buffered_bytes handler peer
tunnels_stalled handler peer
tunnels_silent handler over
pings_total handler peer
ping_timeouts_total handler peer
ping_rtt_seconds handler peer
upstream_up upstream
upstream_checks_total upstream kind result
upstream_state upstream state
upstream_state_set_timestamp_seconds upstream state
upstream_tunnels_limit handler upstream
upstream_handshakes_limit handler upstream
upstream_handshakes_in_progress upstream
upstream_weight handler upstream
upstream_load upstream
cluster_last_sync_success_timestamp_seconds
cluster_sync_errors_total
events_dropped_total
build_info version
`

// described are the names and labels of all metrics.
func described(tb testing.TB) (all []string) {
	tb.Helper()
	form := regexp.MustCompile(`fqName: "caddy_websocket_proxy_(\w+)".*variableLabels: \{([^}]*)\}`)
	for _, d := range descs {
		found := form.FindStringSubmatch(d.String())
		if found == nil {
			tb.Fatalf("client_golang shows a description as %s", d)
		}
		all = append(all, strings.TrimSpace(found[1]+" "+strings.ReplaceAll(found[2], ",", " ")))
	}
	return all
}

func TestNamesAreThoseThatUsersHave(t *testing.T) {
	got, want := described(t), strings.Split(strings.TrimSpace(contract), "\n")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("there are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestEveryMetricIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `caddy_websocket_proxy_(\\w+)` \\| \\w+ \\| ([^|]*)\\|")
	var documented []string
	for _, found := range row.FindAllStringSubmatch(string(text), -1) {
		documented = append(documented, strings.TrimSpace(found[1]+" "+strings.ReplaceAll(strings.TrimSpace(found[2]), ", ", " ")))
	}
	there := described(t)
	for _, one := range there {
		if !slices.Contains(documented, one) {
			t.Errorf("docs/observability.md has no row for %s, with its labels in this order", one)
		}
	}
	for _, one := range documented {
		if !slices.Contains(there, one) {
			t.Errorf("docs/observability.md has a row for %s, which is none", one)
		}
	}
}
