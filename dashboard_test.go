package websocketproxy

import (
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dashboard"
)

func TestDashboardHasWordsForEveryCauseAndReason(t *testing.T) {
	for kind, typ := range map[string]string{dashboard.Refused: "cause", dashboard.Ended: "Reason"} {
		all := constantsOf(t, typ)
		if len(all) < 10 {
			t.Fatalf("there are the %ss %q", typ, all)
		}
		for _, why := range all {
			if !dashboard.Knows(kind, why) {
				t.Errorf("the dashboard has no words for the %s %s", typ, why)
			}
		}
	}
}
