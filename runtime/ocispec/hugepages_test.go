package ocispec_test

import (
	"testing"

	"github.com/shimd/shimd/runtime/ocispec"
	"github.com/shimd/shimd/runtime/request"
)

// The kubelet sends a zero limit of every size for every container: without the controller that is not worth a note, a limit is.
func TestHugepageLimitsWithoutTheController(t *testing.T) {
	for limit, wanted := range map[uint64]int{0: 0, 2 << 20: 1} {
		_, notes, err := ocispec.Resources(&request.Resources{HugepageLimits: []request.HugepageLimit{
			{PageSize: "1GB"}, {PageSize: "2MB", Limit: limit},
		}}, ocispec.Host{})
		if err != nil || len(notes) != wanted {
			t.Errorf("limit %d: notes %q, %v", limit, notes, err)
		}
	}
}
