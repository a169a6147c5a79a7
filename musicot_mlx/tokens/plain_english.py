"""Plain English that says how music feels, where it is heard or what happens in it.

A small model may know few of these words, but they are no mistake and ask for nothing that it
can't play: a prompt that has them beside words it knows is passed over in silence. Base forms;
tokens/known_words.py takes endings off. Wide, not complete: a word that is missing is told of.
"""

LITTLE = frozenset(  # words that say little anywhere
    """
a about above across after again against all almost along already also although always am among
an and another any anything are around as at away back be because become been before begin behind
being below beneath beside best better between beyond big both bring build but by call can carry
catch change close closing come could day deep develop did different do does done down drift drive
drop during each early else end enough enter even ever every everything fade fall far feel few fill
find finish first flow follow for from full further gather get give go good great grow had half
hand hang happen has have he hear heard help her here high him his hold hour how however i if in
inside instead into is it its itself join just keep kind know large last late layer lead least
leave left less let lie life light like line little long look lot low made make many may me mean
might minute mix moment more most mostly move much must my near nearly need never new next no none
nor not nothing now of off often old on once one only onto open or other our out over own pass past
perhaps place play plenty please put quite rather really rest return right rise run same say second
see seem set several shall she short should show side simple since sit slight small so some someone
somebody something sometimes somewhere soon sound stand start stay step still stop such sway sweep
take tell than that the their them then there these they thing think this those though through
throughout time to together too toward towards true try turn two three four five six seven eight
nine ten under until up upon us use very walk want was watch way we well went were what when where
which while who whole why will with within without word work would write year yet you young your
""".split()
)
PLAIN = LITTLE | frozenset(
    """
accent accompany accompaniment air album anthem arrange arrangement atmosphere audio backing
background ballad band bar battle bed bit boss breakdown bridge build-up cadence call-and-response
chamber chart chord chorus climax clip coda comp complex compose composer composition concert
counterpoint cover credit crescendo cue dance dancer demo drone duet duo dynamic echo effect
eighty electric electronic ensemble era etude fanfare feature figure film fingerpick fingerstyle
flourish form free game genre gig groove harmonic harmony hit hook hymn improvise improvisation
in inspire instrument instrumental interlude interplay interval intro introduction jam jingle key
lay layer lead lick listen listener live loop lullaby major march mastered measure melodic melody
meter metre minor mix mode modern motif movement movie music musical musician nineties note ode
odd offbeat old-school orchestra orchestration ostinato outro overdrive overture part passage
pattern pause pedal percussion performance phrase piece pitch player playlist pluck podcast pop
practise practice prelude produce production progression pulse quality quartet quintet record
recording repeat repetition resolve rest rhythm rhythmic riff room scale scene score section
sequence session set seventies sixties solo soloist soloing song sonata soundtrack spectrum stab
staccato standard strum studio style suite sustain swell swung symphony syncopate syncopation tape
tempo texture theme timbre tone track trailer transition tremolo trill trio tune turnaround unison
variation verse version vibe vibrato video virtuoso vocalise volume walk warmth wave ninety twenty

accordingly bottom brooding chug clap cadenza crash croon crunching doubt duel finale gallop hammer
jazz-like murmur nice pluck pop-up refrain shred soundscapes strings-led thrash top unaccompanied
wobble bend blend boost bright-eyed buildup cinematic chord-driven crank dedicate drag echoey edge
effort epic-sounding evolve fiery flavor flavour flutter glisten gloss grind hang headphone hectic
homage hop house-party inn intensify jaunty jungle-like lilt limp loner lullaby-like meander mesh
messy modal murmuring neo nimble offset opulent overlap parallel peak percussively pile plod plunge
prickle proto punch punchy quiver rattle retreat revolve ripple roar roll rootsy rubber sample
scatter screech seep shade shuffling sketch slap slow-burning smoulder smolder snarl spiral sprawl
spring-like stack stomp stretch strip stumbling swift swish tangle tap tension-filled thicken
thunder-like tick tinkle tiptoe topple trickle tug tumble twang twinkle underneath unfold unison
unravel unwind vamp veil verge vocal-free wander whir whoosh widen wrap zoom

able abstract acid adventure adventurous aggressive airy alien alone ancient angel angelic angry
angular anxious april autumn awake bare barren bath beach beautiful beauty bedroom bird bitter
bittersweet black blaze bleak bliss blissful blow blue blurry boat body bold bomb bounce bouncy
boy brave break breath breathe breathy breeze breezy bright brilliant brisk broken brood brown
brush brutal bubble bubbly burn bus busy bustle cafe café calm camp campfire candle car carefree
carnival cat catchy cathedral cave celebrate celebration celebratory cellar change chaotic charm
chase cheer cheerful cheery cheesy child childhood children chill chilly christmas church circus
city classic clean clear clever click climb cloud cloudy club coast coastal coffee cold colour color
colourful colorful comfort comfortable comic confident cook cool corner cosmic country court cosy
cozy crack crackle crazy creepy crisp crowd cruise crunch crunchy crush cry crystal curious cute
cyberpunk cycle daily damp danger dangerous dark darkness dawn day dead death december deep
delicate delight desert desolate desperate determined devotional diner dinner dirt dirty distant
distort distortion divine doom dramatic drama dream dreamy drink dripping drunk dry dub dusk dust
dusty earth earthy ease easy eerie elegant elegiac elevator emotion emotional empty endless
energetic energy enter epic eternal ethereal evening evil evoke excite exotic explosive expressive
fairy faint familiar family fantasy fashion fast fat fear feel-good feeling fest festival festive
fever field fierce fight fire firework flame flash flat fleeting flicker float flower fluid fly
fog foggy forest forget forgotten forlorn fragile fresh friend friendly fright frosty fuel fun
funeral funny furious fury fuzz fuzzy future futuristic galaxy garage garden gate gentle ghost
ghostly giant girl glad glass glassy gleam glide glitter gloom gloomy glorious glory glow god
gold golden goodbye gorgeous grace graceful grainy grand grandiose grateful grave gray greasy
great green grey grief grim grit gritty gross ground groovy guest guide gym happy hard harsh haunt
haunted haze hazy heart heartbeat heartbreak heartfelt heat heaven heavenly heavy hero heroic hill
hiss history holiday hollow holy home homely hope hopeful horror hot hotel house huge human humble
hunt hurt hush hypnotic ice icy idyllic industrial infinite innocent intense intimate intricate
irresistible island jagged jazzy jolly journey joy joyful joyous jump june july kid king kiss
kitchen lake lament land landscape languid lavish lazy leader leaf legend lift lively lofty lonely
lone longing loop loose lose lost loud lounge love lovely lover lucky lush lyrical machine mad
magic magical majestic majesty man marching massive meditate meditation meditative mellow melt
memory menace menacing meditating merry midnight mighty mild military mind minimal minimalist
minimalistic mist misty modern monday money mood moody moon moonlight moonlit morning mother
motion mountain mournful mud muddy muffle murky museum mute mysterious mystery mystic mystical
naive narrow nasty nature neat neon nervous night nightclub nightmare noble noise noisy nordic
nostalgia nostalgic ocean off-beat office ominous optimistic orient ornate otherworldly out-of-tune
outer pace pain palace panic paradise parade park party passion passionate pastoral patient peace
peaceful pensive people perky pirate plain planet playful pleasant poem poetic poignant polish
pound pounding power powerful prayer precise pretty proud pure quaint queen quest quick quiet race
radiant radio rage rain rainy raw read reading rebel rebellious red reflect reflective regal
relax relaxation relentless reminisce restaurant restless retro revenge reverb reverberate rhapsodic
rich ride rigid ring ringing river road robot robotic rock roll romance romantic rough round royal
rugged rumble rural rush rustic sacred sad sadness sail saloon sand sardonic saturated saturday
savage saw scary school sea season secret sensual sentimental serene serious shadow shadowy shake
sharp shimmer shine shiny ship shock shop show shuffle shy silk silky silly silver sincere singular
sizzle skate sky slam sleep sleepy slick slide slippery slow sluggish smile smoke smoky smooth snap
snow snowy soar social soft solemn solitary solitude somber sombre soothe sophisticated sorrow
sorrowful soul soulful space spacey spacious spark sparkle sparse special speed spicy spin spirit
spiritual splash spooky sport spread spring squelch squelchy squeaky squeal stadium stage star
starlight starry stately static steady stealth steam steel stark sticky storm stormy story straight
strange stranger street stride strike strong strut study stumble stylish sublime subtle suburban
sugar summer sun sunday sunny sunrise sunset sunshine super supermarket surf surprise surreal
suspense suspenseful swagger sweet swim swirl tale tall tavern tea tear temple tender tenderness
tense tension terrace terrible thick thin thoughtful thrill throb thump thunderous tide tight time
timeless tiny tired tough town toy traditional tragic train trance-like tranquil travel tree tribal
tribute trick tropical trouble trust tv twilight twist ugly uneasy unhurried universe unstable
unusual uplift upbeat urban urgent vast velvet vibrant vicious victory village vintage violent
vivid void voyage wail walk war warm warrior wash water waterfall wave weary wedding weekend weird
western wet wheeze wheezy whimsical whirl whisper whistle-stop white wicked wide wild wind window
windy winter wintry wistful woman wonder wonderful wood wooden woozy world worn worry yellow zen
afternoon american african arabic asian british celestial chinese cuban english european french
german greek indian irish italian japanese mexican nordic persian russian scottish spanish turkish
""".split()
)
