package cgroups_test

import (
	"os"
	"testing"

	"github.com/shimd/shimd/cgroups"
	"github.com/shimd/shimd/cgroups/devicefilter"
)

func TestMain(m *testing.M) {
	cgroups.UseFilter(devicefilter.New())
	os.Exit(m.Run())
}
