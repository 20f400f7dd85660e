package dashboard

import (
	"os"
	"testing"
)

func TestDescriptorsAreCounted(t *testing.T) {
	before := countDescriptors()
	const more = 100
	for range more {
		file, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
	}
	after := countDescriptors()
	if before.open == 0 || after.open < before.open+more || after.limit < after.open {
		t.Errorf("%+v, and with %d more %+v", before, more, after)
	}
}
