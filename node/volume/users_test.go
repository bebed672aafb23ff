package volume

import (
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestUsers(t *testing.T) {
	root := t.TempDir()
	open := func() *Store {
		store, err := Open(root)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		for _, uid := range []string{"a", "b", "c"} {
			if err := store.Save(Record{Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}}}); err != nil {
				t.Fatal(err)
			}
		}
		return store
	}
	users := func(store *Store, uid string, want uint32) {
		t.Helper()
		if first, err := store.Users(uid); err != nil || first != want {
			t.Errorf("%s has %d, %v; want %d", uid, first, err, want)
		}
	}
	store := open()
	users(store, "a", 65536)
	users(store, "b", 131072)
	users(store, "a", 65536)
	store.Close()

	store = open() // restarted: what runs keeps its IDs
	users(store, "c", 196608)
	users(store, "b", 131072)
	if err := store.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if err := store.Save(Record{Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "d"}}}); err != nil {
		t.Fatal(err)
	}
	users(store, "d", 65536)
	store.Close()

	if err := os.WriteFile(store.pod("c", usersFile), nil, 0o600); err != nil { // as a power cut leaves it
		t.Fatal(err)
	}
	store = open()
	users(store, "b", 131072)
	users(store, "c", 196608)
	store.Close()

	if err := os.WriteFile(store.pod("b", usersFile), []byte(`{"uidMappings":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	store = open()
	if _, err := store.Users("c"); err == nil || !strings.Contains(err.Error(), store.pod("b", usersFile)) {
		t.Errorf("a broken record: %v", err)
	}
}
